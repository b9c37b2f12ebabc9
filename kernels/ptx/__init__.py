"""An interpreter of PTX, the text that ptxas gets: it runs compiled kernels thread by thread, without a device."""

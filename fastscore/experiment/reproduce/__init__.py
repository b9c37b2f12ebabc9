"""CIFAR-10 by the papers' recipes, from a folder of data to a report, in one command: ``fastscore reproduce cifar10``.

Six stages, each of which goes on where it was stopped: the data are read and checked; a few iterations and evaluations are timed;
the plan is made and the network trained by it; its snapshots are compared on a few samples each; many samples of the best and of
the last are drawn and measured over several seeds; and the report says what came of it, beside the published numbers. What is where
in the folder: :mod:`.folder`.
"""

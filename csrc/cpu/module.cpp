// The Python module fastscore._C. Importing it also registers the operators with torch.
#include "direct.h"

#define FASTSCORE_METHOD(NAME) {#NAME, reinterpret_cast<PyCFunction>(fastscore::NAME##_direct), METH_FASTCALL, nullptr}

static PyMethodDef methods[] = {FASTSCORE_METHOD(perturb),
                                FASTSCORE_METHOD(langevin_step),
                                FASTSCORE_METHOD(dsm_loss),
                                {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__C(void) { return PyModule_Create(&module); }

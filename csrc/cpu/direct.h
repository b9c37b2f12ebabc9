// Calls from Python past torch's dispatcher, for small contiguous tensors: there it costs more than the work does.
// Every function takes numbers and addresses, checked by its caller, fastscore/ops/_small.py, and returns whether the
// numbers a row are good (finite, and positive where they must be) and no memory overlaps; where not, nothing was
// written.
#pragma once

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

#include "rows.h"

namespace fastscore {

class Reader {
 public:
  explicit Reader(PyObject* const* arguments) : next_(arguments) {}
  int64_t integer() { return PyLong_AsLongLong(*next_++); }
  double number() { return PyFloat_AsDouble(*next_++); }
  void* address() { return PyLong_AsVoidPtr(*next_++); }
  PerRow per_row() {  // an address, and whether it holds one number a row
    void* data = address();
    return {data, integer() != 0};
  }
  Rows rows() {
    const int64_t count = integer();
    return Rows(count, integer());
  }
  Draw draw() {  // seed, step, stream, offset
    const uint64_t key = static_cast<uint64_t>(integer());
    const auto word = [this] { return static_cast<uint32_t>(integer()); };
    const uint32_t step = word(), stream = word(), offset = word();
    return {{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32), step, stream}, offset, nullptr};
  }

 private:
  PyObject* const* next_;
};

// The element types by the number that Python calls them: as in fastscore/ops/_small.py.
template <class F>
void for_each_type(int64_t type, const F& f) {
  switch (type) {
    case 0:
      return f(float{});
    case 1:
      return f(double{});
    case 2:
      return f(BFloat16{});
    default:
      return f(Half{});
  }
}

inline bool good(const PerRow& numbers, int64_t type, int64_t rows, Values wanted) {
  const int64_t n = numbers.many ? rows : 1;
  return !numbers.data || (type == 1 ? all_good(static_cast<const double*>(numbers.data), n, wanted)
                                     : all_good(static_cast<const float*>(numbers.data), n, wanted));
}

PyObject* perturb_direct(PyObject*, PyObject* const* arguments, Py_ssize_t count);
PyObject* langevin_step_direct(PyObject*, PyObject* const* arguments, Py_ssize_t count);
PyObject* dsm_loss_direct(PyObject*, PyObject* const* arguments, Py_ssize_t count);

}  // namespace fastscore

// The header from C++: every function, called as a C++ program would.
#include "layer_problem.h"
#include "problem.h"

#include <memory>
#include <string>
#include <vector>

namespace {

struct Deleter {
  void operator()(problem *made) const {
    problem_free(made);
    delete made;
  }
};
using Problem = std::unique_ptr<problem, Deleter>;

Problem make(const problem_spec &spec, int32_t dtype) {
  Problem made(new problem);
  problem_make(made.get(), &spec, dtype, LAYOUT_STRIDED);
  problem_solve(made.get());
  return made;
}

std::vector<std::string> names(const char *(*name)(int32_t)) {
  std::vector<std::string> all;
  for (int32_t index = 0; name(index); index++)
    all.emplace_back(name(index));
  return all;
}

void checkAttention(const problem_spec &spec, int32_t dtype, const std::string &isa) {
  const Problem made = make(spec, dtype);
  CHECK(problem_forward(made.get()) == SWIFTATTN_OK, "%s: %s", isa.c_str(), swiftattn_last_error());
  CHECK(problem_backward(made.get()) == SWIFTATTN_OK, "%s: %s", isa.c_str(), swiftattn_last_error());
  for (int which = OUT; which < OPERAND_COUNT; which++)
    problem_check(made.get(), static_cast<operand>(which), isa.c_str());
}

void checkLayer(int32_t dtype, const std::string &isa) {
  static const swiftattn_rope rope{sizeof rope, 0, 10000, 1, 0, 2, 0};
  static const layer_spec spec{"C++",
                               3,
                               2,
                               4,
                               2,
                               11,
                               15,
                               8,
                               6,
                               20,
                               18,
                               14,
                               16,
                               &rope,
                               SWIFTATTN_CAUSAL_BOTTOM_RIGHT,
                               LAYER_HAS_KEY | LAYER_HAS_VALUE | LAYER_HAS_BIASES | LAYER_HAS_TOKEN | LAYER_HAS_ZERO |
                                   LAYER_HAS_MASK | LAYER_HAS_BIAS | LAYER_HAS_KEY_LENGTHS};
  layer_problem made;
  layer_make(&made, &spec, dtype, LAYOUT_STRIDED);
  layer_solve(&made);
  CHECK(layer_forward(&made) == SWIFTATTN_OK, "%s: %s", isa.c_str(), swiftattn_last_error());
  CHECK(layer_backward(&made) == SWIFTATTN_OK, "%s: %s", isa.c_str(), swiftattn_last_error());
  for (int which = LAYER_OUT; which < LAYER_OPERAND_COUNT; which++)
    if (which != LAYER_AVERAGE)
      layer_check(&made, which, isa.c_str());
  layer_free(&made);
}

// A call as the header's first lines show it, on memory of the caller's own.
void checkExample() {
  std::vector<float> q{1, 0, 0, 1}, k{1, 0, 0, 1, 1, 1}, v{3, 5, 7}, computed(2);
  swiftattn_tensor query{q.data(), SWIFTATTN_FLOAT32, 2, {2, 2}, {8, 4}};
  swiftattn_tensor key{k.data(), SWIFTATTN_FLOAT32, 2, {3, 2}, {8, 4}};
  swiftattn_tensor value{v.data(), SWIFTATTN_FLOAT32, 2, {3, 1}, {4, 4}};
  swiftattn_tensor out{computed.data(), SWIFTATTN_FLOAT32, 2, {2, 1}, {4, 4}};
  const double scale = 1;
  swiftattn_attention attention{};
  attention.struct_size = sizeof attention;
  attention.query = &query;
  attention.key = &key;
  attention.value = &value;
  attention.scale = &scale;
  CHECK(swiftattn_attention_forward(&attention, &out, nullptr) == SWIFTATTN_OK, "%s", swiftattn_last_error());
  const double e = std::exp(1.0), sum = 2 * e + 1;
  const double expected[] = {(3 * e + 5 + 7 * e) / sum, (3 + 5 * e + 7 * e) / sum};
  for (int row = 0; row < 2; row++)
    CHECK(std::fabs(computed[row] - expected[row]) < 1e-5, "row %d is %g", row, computed[row]);
}

} // namespace

int main() {
  static const problem_spec spec = {"C++",
                                    4,
                                    2,
                                    4,
                                    2,
                                    19,
                                    27,
                                    8,
                                    12,
                                    SWIFTATTN_CAUSAL_BOTTOM_RIGHT,
                                    WITH_MASK | WITH_BIAS | WITH_KEY_LENGTHS | WITH_QUERY_LENGTHS | WITH_SCALE};
  CHECK(std::string(swiftattn_version()).find('.') != std::string::npos, "version \"%s\"", swiftattn_version());
  checkExample();
  CHECK(swiftattn_set_num_threads(2) == SWIFTATTN_OK && swiftattn_get_num_threads() == 2, "%s", swiftattn_last_error());
  for (const std::string &isa : names(swiftattn_isa_name)) {
    if (!swiftattn_isa_supported(isa.c_str()))
      continue;
    CHECK(swiftattn_set_isa(isa.c_str()) == SWIFTATTN_OK && swiftattn_get_isa() == isa, "%s", swiftattn_last_error());
    CHECK(!names(swiftattn_kernel_id).empty(), "%s has no kernels", isa.c_str());
    checkAttention(spec, SWIFTATTN_FLOAT32, isa);
    checkAttention(spec, SWIFTATTN_FLOAT64, isa);
    checkLayer(SWIFTATTN_FLOAT32, isa);
    checkLayer(SWIFTATTN_FLOAT64, isa);
  }
  CHECK(swiftattn_set_isa("none such") == SWIFTATTN_UNSUPPORTED_ISA, "an unknown tier was chosen");
  CHECK(std::string(swiftattn_last_error()).find("none such") != std::string::npos, "%s", swiftattn_last_error());
  return check_result("test_cpp");
}

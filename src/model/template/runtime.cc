#include "model/template/runtime.h"

#include "model/template/error.h"

namespace tandem::model::jinja {

void Runtime::fail_steps() const {
  exhausted("the template takes more than {} steps; raise RenderLimits::steps_max", limits.steps_max);
}

void Nesting::fail_depth() {
  --runtime_.nesting_;
  exhausted("the template nests values or calls too deeply");
}

}  // namespace tandem::model::jinja

// A device for tests, "far": its memory is the CPU's and its kernels are, too, but a Tensor there is on another device.
// What mixes Tensors of it with those of the CPU fails as on a GPU, and with FAR_NARROW=1 it has no float64, as Apple's
// GPU has none. `waits()` counts how often the host read from it.
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/extension.h>

#include <set>

namespace {

using at::Tensor;
using c10::SymIntArrayRef;
using MaybeTensor = std::optional<Tensor>;

constexpr auto FAR = c10::DeviceType::PrivateUse1;
const c10::Device HERE(FAR, 0);
long waited = 0;
const bool narrow = getenv("FAR_NARROW") != nullptr;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = FAR;
  c10::DeviceType type() const override { return FAR; }
  c10::Device exchangeDevice(c10::Device) const override { return HERE; }
  c10::Device getDevice() const override { return HERE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, HERE); }
  c10::Stream getNewStream(c10::Device, int) const override { return c10::Stream(c10::Stream::DEFAULT, HERE); }
  c10::Stream exchangeStream(c10::Stream) const override { return c10::Stream(c10::Stream::DEFAULT, HERE); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    void* place = c10::alloc_cpu(n);
    return {place, place, &c10::free_cpu, HERE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, std::size_t n) const override { memcpy(to, from, n); }
};
Allocator allocator;
REGISTER_ALLOCATOR(FAR, &allocator);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  at::Device getDeviceFromPtr(void*) const override { return HERE; }
  bool isPinnedPtr(const void*) const override { return false; }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
};
const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

void one_device(bool same, const std::string& what) {
  TORCH_CHECK(same, "Expected all tensors to be on the same device: ", what);
}

caffe2::TypeMeta kind(std::optional<at::ScalarType> dtype) {
  auto found = c10::dtype_or_default(dtype);
  if (narrow && found == at::kDouble)
    throw c10::TypeError({__func__, __FILE__, __LINE__}, "Cannot convert a far Tensor to float64: the device has none");
  return c10::scalarTypeToTypeMeta(found);
}

Tensor empty(SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  auto type = c10::typeMetaToScalarType(kind(dtype));
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &allocator,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type, format);
}

Tensor empty_strided(SymIntArrayRef size, SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  auto type = c10::typeMetaToScalarType(kind(dtype));
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type);
}

// The same memory as a Tensor of the CPU.
Tensor near(const Tensor& t) {
  if (!t.defined() || !t.device().is_privateuseone()) return t;
  at::AutoDispatchBelowAutograd below;
  return at::from_blob(const_cast<void*>(t.const_data_ptr()), t.sizes(), t.strides(), [](void*) {},
                       at::TensorOptions().dtype(t.dtype()).device(at::kCPU));
}

Tensor copy_from(const Tensor& self, const Tensor& to, bool) {
  if (self.numel()) {
    waited += !to.device().is_privateuseone();
    near(to).copy_(near(self));
  }
  return to;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& to) {
  if (to.sizes() != self.sizes()) at::native::resize_(to, self.sizes(), std::nullopt);
  return copy_from(self, to, false);
}

Tensor far(const Tensor& t) {
  if (!t.defined()) return t;
  return copy_from(t, at::empty_strided(t.sizes(), t.strides(), t.options().device(HERE)), false);
}

at::Scalar item(const Tensor& t) {
  waited++;
  return near(t).item();
}

// Every other kernel: the CPU's, on copies.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  static const std::set<std::string> mixes = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"};
  static const std::set<std::string> waits = {"aten::nonzero", "aten::masked_select", "aten::equal",
                                              "aten::is_nonzero", "aten::_unique2", "aten::repeat_interleave"};
  const auto& schema = op.schema();
  auto name = schema.name();
  bool there = false;
  std::string host;
  auto see = [&](const Tensor& t, const std::string& argument) {
    if (t.defined() && t.device().is_privateuseone()) there = true;
    else if (t.defined() && t.device().is_cpu() && t.dim() > 0) host = argument;
  };
  auto values = torch::jit::last(*stack, schema.arguments().size());
  for (size_t i = 0; i < values.size(); i++) {
    auto argument = schema.arguments()[i].name();
    if (values[i].isTensor()) see(values[i].toTensor(), argument);
    else if (values[i].isList())
      for (const auto& element : values[i].toListRef())
        if (element.isTensor()) see(element.toTensor(), argument);
  }
  one_device(!there || host.empty() || mixes.count(name), name + " has '" + host + "' on the cpu");
  auto before = waited;  // the copies are of this test's own making
  at::native::cpu_fallback(op, stack, false);
  waited = before + waits.count(name);
}

Tensor convolution(const Tensor& x, const Tensor& weight, const MaybeTensor& bias, SymIntArrayRef stride,
                   SymIntArrayRef padding, SymIntArrayRef dilation, bool transposed, SymIntArrayRef more,
                   c10::SymInt groups) {
  bool biased = bias && bias->defined();
  one_device(x.device() == weight.device() && (!biased || bias->device() == x.device()), "convolution");
  at::AutoDispatchBelowAutograd below;
  return far(at::convolution_symint(near(x), near(weight), biased ? MaybeTensor(near(*bias)) : std::nullopt, stride,
                                    padding, dilation, transposed, more, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, SymIntArrayRef stride, SymIntArrayRef padding,
    SymIntArrayRef dilation, bool transposed, SymIntArrayRef more, c10::SymInt groups, std::array<bool, 3> mask) {
  at::AutoDispatchBelowAutograd below;
  std::vector<c10::SymInt> sizes = {transposed ? weight.sym_size(1) * groups : weight.sym_size(0)};
  auto [a, b, c] = at::convolution_backward_symint(near(grad), near(x), near(weight), sizes, stride, padding, dilation,
                                                   transposed, more, groups, mask);
  return {far(a), far(b), far(c)};
}

// Its running statistics change in place, which the schema does not say, so that copies would lose that.
std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias,
                                              const MaybeTensor& mean, const MaybeTensor& variance, bool training,
                                              double momentum, double eps) {
  at::AutoDispatchBelowAutograd below;
  auto of = [&](const MaybeTensor& t) -> MaybeTensor {
    if (!t || !t->defined()) return t;
    one_device(t->device() == x.device(), "batch_norm");
    return near(*t);
  };
  auto [a, b, c] = at::native_batch_norm(near(x), of(weight), of(bias), of(mean), of(variance), training, momentum, eps);
  return {far(a), far(b), far(c)};
}

Tensor view(const Tensor& t, SymIntArrayRef size) { return at::native::view(t, C10_AS_INTARRAYREF_SLOW(size)); }

Tensor as_strided(const Tensor& t, SymIntArrayRef size, SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  auto start = offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(t, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), start);
}

Tensor reshape_alias(const Tensor& t, SymIntArrayRef size, SymIntArrayRef stride) {
  return at::native::_reshape_alias(t, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

const Tensor& resize(const Tensor& t, SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(t, C10_AS_INTARRAYREF_SLOW(size), format);
}

Tensor& set(Tensor& t, at::Storage storage, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  t.unsafeGetTensorImpl()->set_storage_offset(offset);
  at::native::checkSetStorage(t, storage, offset, size, stride);
  at::native::resize_impl_cpu_(t.unsafeGetTensorImpl(), size,
                               stride.empty() ? std::nullopt : std::optional<at::IntArrayRef>(stride), true);
  return t;
}

Tensor& set_storage(Tensor& t, at::Storage storage) {
  int64_t n = storage.nbytes() / t.dtype().itemsize();
  return set(t, storage, 0, {n}, {1});
}

Tensor& set_part(Tensor& t, at::Storage storage, c10::SymInt offset, SymIntArrayRef size, SymIntArrayRef stride) {
  return set(t, storage, offset.expect_int(), C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

Tensor& set_tensor(Tensor& t, const Tensor& other) {
  return set(t, other.storage(), other.storage_offset(), other.sizes(), other.strides());
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &item);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("native_batch_norm", &batch_norm);
  m.impl("view", &view);
  m.impl("as_strided", &as_strided);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("resize_", &resize);
  m.impl("unfold", &at::native::unfold);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_.source_Storage_storage_offset", &set_part);
  m.impl("set_.source_Tensor", &set_tensor);
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("waits", [] { return waited; });
}

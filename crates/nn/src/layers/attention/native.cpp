// The back ends of attention that the bindings of libtorch do not offer one by one.

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <optional>
#include <stdexcept>
#include <tuple>

#include <ATen/core/Tensor.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/scaled_dot_product_attention.h>

namespace {

// In the order of `BackEnd` in native.rs.
enum BackEnd { DEFAULT = 0, FLASH = 1, CUDNN = 2, EFFICIENT = 3 };

at::Tensor attend(int back_end, const at::Tensor& query, const at::Tensor& key,
                  const at::Tensor& value, std::optional<double> scale) {
    switch (back_end) {
        case DEFAULT:
            return at::scaled_dot_product_attention(query, key, value, std::nullopt, 0.0, false,
                                                    scale, false);
        case FLASH:
            return std::get<0>(at::_scaled_dot_product_flash_attention(query, key, value, 0.0,
                                                                       false, false, scale));
        case CUDNN:
            return std::get<0>(at::_scaled_dot_product_cudnn_attention(
                query, key, value, std::nullopt, false, 0.0, false, false, scale));
        case EFFICIENT:
            return std::get<0>(at::_scaled_dot_product_efficient_attention(
                query, key, value, std::nullopt, false, 0.0, false, scale));
        default:
            throw std::invalid_argument("no such back end");
    }
}

}  // namespace

// `softmax(query keyᵀ scale) value` over [batch, heads, tokens, dim]; `scale` NaN: the default.
// A new tensor, or null with the first `room - 1` bytes of what is wrong in `message`.
extern "C" void* storyloom_attend(int back_end, const void* query, const void* key,
                                  const void* value, double scale, char* message,
                                  std::size_t room) {
    const auto tensor = [](const void* pointer) -> const at::Tensor& {
        return *static_cast<const at::Tensor*>(pointer);
    };
    try {
        const auto given = std::isnan(scale) ? std::nullopt : std::make_optional(scale);
        return new at::Tensor(
            attend(back_end, tensor(query), tensor(key), tensor(value), given));
    } catch (const std::exception& error) {
        std::snprintf(message, room, "%s", error.what());
    } catch (...) {
        std::snprintf(message, room, "an exception that is none of the standard's");
    }
    return nullptr;
}

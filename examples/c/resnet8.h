/* ResNet8 in integers: the constants of its operators by ONNX's names, and the one function.
 *
 * `python scripts/export_c.py` writes resnet8_model.h, which fills these records from a model.
 */
#ifndef RESNET8_H
#define RESNET8_H
#include <stdint.h>

enum { IMAGE = 3 * 32 * 32, CLASSES = 10, LARGEST_TENSOR = 16 * 32 * 32 };

/* factor = mantissa / 2**shift, a float32 taken apart: a 24-bit mantissa, and shift from 24 to 63 */
struct factor {
    uint32_t mantissa;
    int shift;
};

/* of scale 1: y is the pixel + y_zero_point */
struct quantize_linear {
    const char *name;
    int count;
    int8_t y_zero_point;
};

struct qlinear_conv {
    const char *name;
    int c_in, h_in, w_in, c_out, h_out, w_out, k_h, k_w, stride_h, stride_w, pad_top, pad_left;
    int8_t x_zero_point, y_zero_point; /* the weights' are 0 */
    const int8_t *w;
    const int32_t *bias;
    const struct factor *factor; /* one for each output channel, as the bias */
};

/* C = (A * a + B * b + constant) / 2**shift, rounded down and saturated; zero points are in constant */
struct qlinear_add {
    const char *name;
    int count;
    int32_t a, b, constant;
    int shift;
};

struct qlinear_global_average_pool {
    const char *name;
    int channels, pixels;
    int8_t x_zero_point, y_zero_point;
    struct factor factor; /* 1 / pixels is part of it */
};

/* How resnet8_model.h makes a convolution: it does not compile where an array is not of its size. */
#define HOLDS(name, condition) typedef char name[(condition) ? 1 : -1]
#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define QLINEAR_CONV(layer, c_in, h_in, w_in, c_out, h_out, w_out, k_h, k_w, stride_h, stride_w, \
                     pad_top, pad_left, x_zero_point, y_zero_point)                              \
    HOLDS(layer##_w_has_another_size, LENGTH(layer##_w) == (c_out) * (c_in) * (k_h) * (k_w));    \
    HOLDS(layer##_bias_has_another_size, LENGTH(layer##_bias) == (c_out));                       \
    HOLDS(layer##_factor_has_another_size, LENGTH(layer##_factor) == (c_out));                   \
    HOLDS(layer##_x_is_too_large, (c_in) * (h_in) * (w_in) <= LARGEST_TENSOR);                   \
    HOLDS(layer##_y_is_too_large, (c_out) * (h_out) * (w_out) <= LARGEST_TENSOR);                \
    static const struct qlinear_conv layer = {                                                   \
        #layer, c_in, h_in, w_in, c_out, h_out, w_out, k_h, k_w, stride_h, stride_w, pad_top,    \
        pad_left, x_zero_point, y_zero_point, layer##_w, layer##_bias, layer##_factor}

/* The logits of an image of pixels 0 to 255, channel by channel: red, green, blue. */
void resnet8(const uint8_t image[IMAGE], int8_t logits[CLASSES]);

/* Yours to define: is called with each tensor when it is complete. An empty function will do. */
void resnet8_tensor(const char *name, const int8_t *values, int count);

#endif

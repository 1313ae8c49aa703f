/* ResNet8 in C99 with integers only: no float, no memory from the heap, no library function.
 *
 *   python scripts/export_c.py --out build       # writes build/resnet8_model.h and build/resnet8.bin
 *   cc -std=c99 -O2 -I build examples/c/resnet8.c examples/c/resnet8_check.c -o build/check
 *   build/check build/resnet8.bin
 *
 * Every tensor equals ONNX Runtime's. One function computes one operator; resnet8, at the end, is
 * the network.
 */
#include "resnet8.h"

#include "resnet8_model.h"

/* C99 leaves open what a right shift makes of negative numbers; here it must round down. */
HOLDS(right_shift_is_not_arithmetic, (int32_t)-3 >> 1 == -2);

static int8_t saturate(int32_t value)
{
    return (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
}

/* value / 2**shift to the nearest integer, ties to even; shift is 0 to 63. */
static uint64_t round_half_even(uint64_t value, int shift)
{
    if (shift == 0)
        return value;
    const uint64_t floor = value >> shift, rest = value - (floor << shift);
    const uint64_t half = (uint64_t)1 << (shift - 1);
    return floor + (rest > half || (rest == half && floor % 2 == 1));
}

/* What float32 does to acc * factor, for |acc| up to 2**24: the product is rounded to 24 significant
 * bits, and that to an integer. */
static int8_t requantize(int32_t acc, struct factor factor, int8_t y_zero_point)
{
    const uint64_t product = (uint64_t)(acc < 0 ? -acc : acc) * factor.mantissa; /* 48 bits */
    int dropped = 0;
    while (product >> dropped >= (uint64_t)1 << 24)
        dropped++;
    const uint64_t significant = round_half_even(product, dropped);
    const int32_t magnitude = (int32_t)round_half_even(significant, factor.shift - dropped);
    return saturate((acc < 0 ? -magnitude : magnitude) + y_zero_point);
}

static void quantize_linear(const struct quantize_linear *op, const uint8_t *x, int8_t *y)
{
    for (int i = 0; i < op->count; i++)
        y[i] = saturate(x[i] + op->y_zero_point);
    resnet8_tensor(op->name, y, op->count);
}

/* The exact sum of products and the bias; padding stands for x_zero_point, so it adds 0. */
static int32_t accumulate(const struct qlinear_conv *op, const int8_t *x, int m, int oy, int ox)
{
    const int8_t *w = op->w + m * op->c_in * op->k_h * op->k_w;
    int32_t acc = op->bias[m];
    for (int c = 0; c < op->c_in; c++)
        for (int ky = 0; ky < op->k_h; ky++)
            for (int kx = 0; kx < op->k_w; kx++, w++) {
                const int iy = oy * op->stride_h + ky - op->pad_top;
                const int ix = ox * op->stride_w + kx - op->pad_left;
                if (iy >= 0 && iy < op->h_in && ix >= 0 && ix < op->w_in)
                    acc += (x[(c * op->h_in + iy) * op->w_in + ix] - op->x_zero_point) * *w;
            }
    return acc;
}

static void qlinear_conv(const struct qlinear_conv *op, const int8_t *x, int8_t *y)
{
    int8_t *next = y;
    for (int m = 0; m < op->c_out; m++)
        for (int oy = 0; oy < op->h_out; oy++)
            for (int ox = 0; ox < op->w_out; ox++)
                *next++ = requantize(accumulate(op, x, m, oy, ox), op->factor[m], op->y_zero_point);
    resnet8_tensor(op->name, y, op->c_out * op->h_out * op->w_out);
}

/* A dense layer is a 1x1 convolution of an image of one pixel. */
static void qgemm(const struct qlinear_conv *op, const int8_t *A, int8_t *Y)
{
    qlinear_conv(op, A, Y);
}

/* C may be A or B. */
static void qlinear_add(const struct qlinear_add *op, const int8_t *A, const int8_t *B, int8_t *C)
{
    for (int i = 0; i < op->count; i++)
        C[i] = saturate((A[i] * op->a + B[i] * op->b + op->constant) >> op->shift);
    resnet8_tensor(op->name, C, op->count);
}

static void qlinear_global_average_pool(
    const struct qlinear_global_average_pool *op, const int8_t *x, int8_t *y)
{
    for (int c = 0; c < op->channels; c++) {
        int32_t sum = 0;
        for (int i = 0; i < op->pixels; i++)
            sum += *x++ - op->x_zero_point;
        y[c] = requantize(sum, op->factor, op->y_zero_point);
    }
    resnet8_tensor(op->name, y, op->channels);
}

void resnet8(const uint8_t image[IMAGE], int8_t logits[CLASSES])
{
    static int8_t a[LARGEST_TENSOR], b[LARGEST_TENSOR], c[LARGEST_TENSOR];

    quantize_linear(&image_QuantizeLinear, image, b);
    qlinear_conv(&stem_quant, b, a);

    qlinear_conv(&block1_conv1_quant, a, b);
    qlinear_conv(&block1_conv2_quant, b, c);
    qlinear_add(&block1_add_quant, c, a, a);

    qlinear_conv(&block2_conv1_quant, a, b);
    qlinear_conv(&block2_shortcut_quant, a, c);
    qlinear_conv(&block2_conv2_quant, b, a);
    qlinear_add(&block2_add_quant, a, c, a);

    qlinear_conv(&block3_conv1_quant, a, b);
    qlinear_conv(&block3_shortcut_quant, a, c);
    qlinear_conv(&block3_conv2_quant, b, a);
    qlinear_add(&block3_add_quant, a, c, a);

    qlinear_global_average_pool(&pool_quant, a, b);
    qgemm(&dense_quant, b, logits);
}

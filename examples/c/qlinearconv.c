/* A QLinearConv in C99, checked against golden vectors.
 *
 *   python -m qlinear vectors models/resnet8_int8.onnx --out vectors --node stem_quant --images 1
 *   cc -std=c99 -Wall -Wextra -Werror -pedantic -I vectors/01_stem_quant \
 *       examples/c/qlinearconv.c -o check -lm
 *   ./check
 *
 * Prints PASS and exits with status 0, or FAIL with the first mismatch and status 1.
 *
 * Needs IEEE 754 float32 without excess precision (FLT_EVAL_METHOD 0) and the default rounding mode.
 * Define WRONG_ROUNDING as TRUNCATE or HALF_UP to see how a wrong rounding is found: truncation on
 * any layer, half up where a product falls on a tie.
 * Define THRESHOLDS, for vectors made with --thresholds, to check stage 2 at every accumulator at
 * which an output steps: as it never decreases, it is then right on every accumulator.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "layer.h"
#ifdef THRESHOLDS
#include "thresholds.h"
#endif

#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "float32 arithmetic has excess precision here: the result would not be exact"
#endif

#define TRUNCATE 1
#define HALF_UP 2
#ifndef WRONG_ROUNDING
#define WRONG_ROUNDING 0
#endif

#define TAPS ((C_IN / GROUPS) * K_H * K_W)

/* A header that was cut, or whose sizes are not its arrays', does not compile. */
#define HOLDS(array, count) \
    typedef char array##_has_not_as_many_elements_as_its_sizes_say[ \
        (count) > 0 && sizeof(array) / sizeof *(array) == (count) ? 1 : -1]

HOLDS(vec_x, C_IN * H_IN * W_IN);
HOLDS(vec_w, C_OUT * TAPS);
HOLDS(vec_w_zero_point, C_OUT);
HOLDS(vec_bias, C_OUT);
HOLDS(vec_factor, C_OUT);
HOLDS(vec_acc, C_OUT * H_OUT * W_OUT);
HOLDS(vec_y, C_OUT * H_OUT * W_OUT);
#ifdef THRESHOLDS
HOLDS(vec_thresholds_channel, THRESHOLDS_COUNT);
HOLDS(vec_thresholds_acc, THRESHOLDS_COUNT);
HOLDS(vec_thresholds_y, THRESHOLDS_COUNT);
#endif

/* Stage 1: the exact sum of products and the bias. Padding stands for x_zero_point: it adds 0. */
static int32_t accumulate(int m, int oy, int ox)
{
    const int first = m / (C_OUT / GROUPS) * (C_IN / GROUPS);
    int32_t acc = vec_bias[m];
    int at = m * TAPS;
    for (int c = 0; c < C_IN / GROUPS; c++)
        for (int ky = 0; ky < K_H; ky++)
            for (int kx = 0; kx < K_W; kx++, at++) {
                const int iy = oy * STRIDE_H + ky * DILATION_H - PAD_TOP;
                const int ix = ox * STRIDE_W + kx * DILATION_W - PAD_LEFT;
                if (iy < 0 || iy >= H_IN || ix < 0 || ix >= W_IN)
                    continue;
                acc += (vec_x[((first + c) * H_IN + iy) * W_IN + ix] - X_ZERO)
                     * (vec_w[at] - vec_w_zero_point[m]);
            }
    return acc;
}

/* Stage 2: one float32 product, rounded to the nearest integer, ties to even; zero point; clamp. */
static int requantize(int32_t acc, int m)
{
    float factor;
    memcpy(&factor, &vec_factor[m], sizeof factor);
    const float scaled = (float)acc * factor;
#if WRONG_ROUNDING == TRUNCATE
    const float rounded = floorf(scaled);
#elif WRONG_ROUNDING == HALF_UP
    const float rounded = floorf(scaled + 0.5f);
#else
    const float rounded = rintf(scaled);
#endif
    const float shifted = rounded + (float)Y_ZERO;
    if (shifted < (float)Y_MIN)
        return Y_MIN;
    if (shifted > (float)Y_MAX)
        return Y_MAX;
    return (int)shifted;
}

int main(void)
{
    long wrong = 0, out = 0;
    for (int m = 0; m < C_OUT; m++)
        for (int oy = 0; oy < H_OUT; oy++)
            for (int ox = 0; ox < W_OUT; ox++, out++) {
                const int32_t acc = accumulate(m, oy, ox);
                const int y = requantize(acc, m);
                if (acc != vec_acc[out] || y != vec_y[out]) {
                    if (wrong++ == 0)
                        printf("first mismatch at channel %d, row %d, column %d: "
                               "acc %ld, expected %ld; y %d, expected %d\n",
                               m, oy, ox, (long)acc, (long)vec_acc[out], y, (int)vec_y[out]);
                }
            }
#ifdef THRESHOLDS
    for (long i = 0; i < THRESHOLDS_COUNT; i++, out++) {
        const int y = requantize(vec_thresholds_acc[i], vec_thresholds_channel[i]);
        if (y != vec_thresholds_y[i] && wrong++ == 0)
            printf("first mismatch at channel %ld, acc %ld: y %d, expected %d\n",
                   (long)vec_thresholds_channel[i], (long)vec_thresholds_acc[i],
                   y, (int)vec_thresholds_y[i]);
    }
#endif
    if (wrong)
        printf("FAIL: %ld of %ld outputs differ\n", wrong, out);
    else
        printf("PASS: %ld outputs equal\n", out);
    return wrong ? 1 : 0;
}

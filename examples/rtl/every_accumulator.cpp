// Gives the requantizer, compiled by Verilator, every accumulator that a channel can have, one a clock,
// and compares each result with float32's. Reads a line for each channel: mantissa, shift, zero point,
// least and greatest accumulator, and the factor's bits. run.py --every makes all of that.
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "Vrequantizer.h"

static const int LATENCY = 4, MASK = (1 << 22) - 1;

// What ONNX Runtime's kernel does; nearbyintf rounds ties to even.
static int float32(int32_t acc, float factor, int zero_point)
{
    const float value = nearbyintf((float)acc * factor) + (float)zero_point;
    return (int)fminf(fmaxf(value, -128.0f), 127.0f);
}

int main()
{
    Vrequantizer block;
    const auto tick = [&block] {
        block.clk = 1;
        block.eval();
        block.clk = 0;
        block.eval();
    };
    fesetround(FE_TONEAREST);
    block.clk = 0;
    block.y_ready = 1;
    block.reset = 1;
    tick();
    block.reset = 0;
    long long compared = 0, channels = 0;
    unsigned mantissa, shift, bits;
    int zero_point, low, high;
    while (scanf("%u %u %d %d %d %u", &mantissa, &shift, &zero_point, &low, &high, &bits) == 6) {
        float factor;
        memcpy(&factor, &bits, sizeof factor);
        block.mantissa = mantissa;
        block.shift = shift;
        block.y_zero_point = zero_point & 511;
        for (int acc = low; acc < high + LATENCY; acc++) {
            block.acc_valid = acc <= high;
            block.acc = acc & MASK;
            tick();
            const int behind = acc - LATENCY + 1;  // the accumulator whose result is there now
            if (behind < low) continue;
            const int y = block.y > 255 ? block.y - 512 : block.y, expected = float32(behind, factor, zero_point);
            if (!block.y_valid || y != expected) {
                printf("FAIL: channel %lld, acc %d: y %d, expected %d\n", channels, behind, y, expected);
                return 1;
            }
            compared++;
        }
        channels++;
    }
    if (compared == 0) {
        printf("FAIL: there is nothing to compare\n");
        return 1;
    }
    printf("PASS: %lld channels, %lld accumulators equal\n", channels, compared);
    return 0;
}

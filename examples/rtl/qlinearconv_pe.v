// A QLinearConv processing element: one multiply-accumulate a clock, then a requantizer that does in
// integers what ONNX Runtime does in float32, to the bit. Plain Verilog-2001, for reading first.
//
// Protocol: pulse `start` with the bias; give one (x, w) pair on each clock with `valid`; pulse `last`
// with the final pair. `done` rises with the 8-bit result in y one clock later.

module qlinearconv_pe #(
    parameter integer Y_ZERO = -128,  // output zero point
    parameter integer Y_MIN = -128,   // range of the output type
    parameter integer Y_MAX = 127
) (
    input                    clk,
    input                    start,
    input                    valid,
    input                    last,
    input      signed [31:0] bias,
    input      signed [8:0]  x,         // x - x_zero_point: a difference of 8-bit integers has 9 bits
    input      signed [8:0]  w,         // w - w_zero_point
    input             [23:0] mantissa,  // factor[m] = mantissa * 2**-shift
    input             [7:0]  shift,
    output reg signed [31:0] acc,
    output reg signed [8:0]  y,         // wide enough for int8 and uint8
    output reg               done
);
    wire signed [31:0] next = (start ? bias : acc) + (valid ? x * w : 32'sd0);
    wire signed [8:0]  rounded;

    // stage 2 sees the sum once, when it is complete
    requantize #(.Y_ZERO(Y_ZERO), .Y_MIN(Y_MIN), .Y_MAX(Y_MAX)) stage2 (
        .acc(last ? next : 32'sd0), .mantissa(mantissa), .shift(shift), .y(rounded)
    );

    always @(posedge clk) begin
        acc <= next;
        done <= last;
        if (last) y <= rounded;
    end
endmodule

// Stage 2, combinational: acc * scale rounded as float32 rounds it (24 significant bits, ties to
// even), then to an integer (ties to even), plus the zero point, saturated. Needs |acc| < 2**24.
module requantize #(
    parameter integer Y_ZERO = -128,
    parameter integer Y_MIN = -128,
    parameter integer Y_MAX = 127
) (
    input      signed [31:0] acc,
    input             [23:0] mantissa,
    input             [7:0]  shift,
    output reg signed [8:0]  y
);
    reg [47:0] product, significant, integral;
    reg [31:0] magnitude;
    reg [5:0] length, dropped;
    reg [7:0] right;
    reg signed [49:0] value;
    integer i;

    // v / 2**n to the nearest integer, ties to even
    function [47:0] half_even(input [47:0] v, input [7:0] n);
        reg [47:0] floor, rest, half;
        begin
            if (n == 0) half_even = v;
            else if (n > 48) half_even = 0;
            else begin
                floor = (n == 48) ? 48'd0 : v >> n;
                half = 48'd1 << (n - 1);
                rest = v - ((n == 48) ? 48'd0 : floor << n);
                half_even = floor + ((rest > half || (rest == half && floor[0])) ? 48'd1 : 48'd0);
            end
        end
    endfunction

    always @* begin
        magnitude = (acc < 0) ? -acc : acc;  // apart, since the product below is unsigned
        product = {16'd0, magnitude} * {24'd0, mantissa};
        length = 0;
        for (i = 0; i < 48; i = i + 1) if (product[i]) length = i[5:0] + 6'd1;
        dropped = (length > 24) ? length - 6'd24 : 6'd0;
        significant = half_even(product, {2'd0, dropped});
        if (shift >= {2'd0, dropped}) begin
            right = shift - {2'd0, dropped};
            integral = half_even(significant, right);
        end else begin
            right = 0;
            integral = significant << (dropped - shift[5:0]);
        end
        value = (acc < 0) ? -$signed({2'b0, integral}) : $signed({2'b0, integral});
        value = value + Y_ZERO;
        if (value < Y_MIN) y = Y_MIN;
        else if (value > Y_MAX) y = Y_MAX;
        else y = value[8:0];
    end
endmodule

// QLinearAdd, the sum of a residual connection, in integers:
//
//     c = saturate((a * factor_a + b * factor_b + constant) >> 20)
//
// With the right constants that is ONNX Runtime's result for all 65,536 pairs of a and b; the zero
// points and the rounding are part of `constant`. With factors rounded from the scales, twenty fractional
// bits are the fewest with which all three additions of the book's network are exact
// (qlinear/hardware/additions.py tries the pairs).
//
// One result a clock, two clocks after its pair. A word moves at a rising edge of the clock at which its
// valid and its ready are both 1; a and b move together, when both are there.

module qlinear_add #(
    parameter int C_MIN = -128,  // range of the output's type
    parameter int C_MAX = 127
) (
    input  logic               clk,
    input  logic               reset,
    input  logic               a_valid,
    output logic               a_ready,
    input  logic signed [8:0]  a,         // wide enough for int8 and uint8
    input  logic               b_valid,
    output logic               b_ready,
    input  logic signed [8:0]  b,
    input  logic [21:0]        factor_a,  // a_scale / c_scale * 2**20; these are the layer's
    input  logic [21:0]        factor_b,
    input  logic signed [31:0] constant,
    output logic               c_valid,
    input  logic               c_ready,
    output logic signed [8:0]  c
);
    logic               valid;
    logic signed [31:0] product_a, product_b;
    wire                move = !c_valid || c_ready;
    wire signed [11:0]  value = 12'((product_a + product_b + constant) >>> 20);

    assign a_ready = move && b_valid;
    assign b_ready = move && a_valid;

    always_ff @(posedge clk) begin
        if (reset) {c_valid, valid} <= 2'b0;
        else if (move) {c_valid, valid} <= {valid, a_valid && b_valid};
        if (move) begin
            product_a <= 32'(a * $signed({1'b0, factor_a}));
            product_b <= 32'(b * $signed({1'b0, factor_b}));
            c <= value < 12'(C_MIN) ? 9'(C_MIN) : value > 12'(C_MAX) ? 9'(C_MAX) : value[8:0];
        end
    end
endmodule

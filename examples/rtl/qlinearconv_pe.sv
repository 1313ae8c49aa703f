// The processing element of a QLinearConv: one multiply-accumulate a clock, stage 1 of the operator.
//
// A stream of pairs comes in and a stream of sums goes out. A word moves at a rising edge of the clock
// at which its valid and its ready are both 1. `first` is 1 with an element's first pair, whose sum
// begins with the bias, and `last` with its last; then acc is the accumulator. Padding is a pair with
// x = 0. One register holds the running sum and the result, so the element waits while a result is not
// taken.

module qlinearconv_pe #(
    parameter int ACC = 22  // bits of the accumulator; the weights prove how many are enough
) (
    input  logic                  clk,
    input  logic                  reset,
    input  logic                  in_valid,
    output logic                  in_ready,
    input  logic                  first,
    input  logic                  last,
    input  logic signed [ACC-1:0] bias,
    input  logic signed [8:0]     x,         // x - x_zero_point: a difference of 8-bit integers, 9 bits
    input  logic signed [8:0]     w,         // w - w_zero_point
    output logic                  acc_valid,
    input  logic                  acc_ready,
    output logic signed [ACC-1:0] acc
);
    wire signed [ACC-1:0] product = ACC'(x) * ACC'(w);

    assign in_ready = !acc_valid || acc_ready;

    always_ff @(posedge clk) begin
        if (reset) acc_valid <= 1'b0;
        else if (in_ready) acc_valid <= in_valid && last;
        if (in_valid && in_ready) acc <= (first ? bias : acc) + product;
    end
endmodule

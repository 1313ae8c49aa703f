// Stage 2 of a QLinearConv, a pipeline: it does in integers what ONNX Runtime does in float32, to the
// bit, for every factor and every |acc| up to 2**24.
//
//     y = saturate(rint(float32(acc) * factor) + y_zero_point),  factor = mantissa * 2**-shift
//
// The float32 product is the exact product of two integers, rounded to 24 significant bits, ties to
// even; rint rounds that to an integer, ties to even. Both work on the magnitude. A single
// multiplication and shift would be smaller, but is not equal for all channels (chapter 7 of the book).
//
// One result a clock, four clocks after its accumulator. A word moves at a rising edge of the clock at
// which its valid and its ready are both 1; while the last result is not taken all stages wait.

module requantizer #(
    parameter int ACC = 22,  // bits of acc, at most 25
    parameter int Y_MIN = -128,  // range of the output's type
    parameter int Y_MAX = 127
) (
    input  logic                  clk,
    input  logic                  reset,
    input  logic                  acc_valid,
    output logic                  acc_ready,
    input  logic signed [ACC-1:0] acc,
    input  logic [23:0]           mantissa,      // of the channel; its top bit is 1
    input  logic [7:0]            shift,
    input  logic signed [8:0]     y_zero_point,  // constant while results are on their way
    output logic                  y_valid,
    input  logic                  y_ready,
    output logic signed [8:0]     y              // wide enough for int8 and uint8
);
    localparam int PRODUCT = ACC + 23;  // bits: of the magnitude and the mantissa, at least one less
    localparam int MOST = PRODUCT - 24;  // so many at most are beyond 24 significant ones

    logic [3:1] valid;  // of the stages before the last
    wire        move = !y_valid || y_ready;

    assign acc_ready = move;

    // 1: the exact product of the magnitudes
    logic               negative_1, negative_2, negative_3;
    logic [PRODUCT-1:0] product_1, product_2;
    logic [7:0]         shift_1, shift_2;
    wire  [ACC-1:0]     magnitude = acc[ACC-1] ? -acc : acc;

    // 2: how many of its bits are beyond 24 significant ones
    logic [4:0] dropped, dropped_2;
    always_comb begin
        dropped = 5'd0;
        for (int i = 1; i <= MOST; i++) if (product_1[i+23]) dropped = 5'(i);
    end

    // 3: float32's rounding; the bits behind the point are those that the shift dropped
    logic [24:0]       significant_3;
    logic [4:0]        right_3;
    wire  [23:0]       whole = 24'(product_2 >> dropped_2);
    wire  [MOST-1:0]   lost = MOST'({product_2, {MOST{1'b0}}} >> dropped_2);
    wire               up = lost[MOST-1] && (whole[0] || lost[MOST-2:0] != 0);
    wire  [7:0]        right = shift_2 > 8'(dropped_2) ? shift_2 - 8'(dropped_2) : 8'd0;

    // 4: rint. From 26 on, a shift leaves 0. A shift to the left would be needed for factors so large
    // that all but 0 saturates, which it does without.
    wire [24:0]        floor = significant_3 >> right_3;
    wire [25:0]        rest = 26'({significant_3, 26'd0} >> right_3);
    wire               round = rest[25] && (floor[0] || rest[24:0] != 0);
    wire signed [26:0] rounded = {2'b0, floor} + 27'(round);
    wire signed [26:0] value = (negative_3 ? -rounded : rounded) + 27'(y_zero_point);

    always_ff @(posedge clk) begin
        if (reset) {y_valid, valid} <= 4'b0;
        else if (move) {y_valid, valid} <= {valid, acc_valid};
        if (move) begin
            negative_1 <= acc[ACC-1];
            product_1 <= magnitude * mantissa;
            shift_1 <= shift;
            negative_2 <= negative_1;
            product_2 <= product_1;
            shift_2 <= shift_1;
            dropped_2 <= dropped;
            negative_3 <= negative_2;
            significant_3 <= {1'b0, whole} + 25'(up);
            right_3 <= right > 8'd26 ? 5'd26 : right[4:0];
            y <= value < 27'(Y_MIN) ? 9'(Y_MIN) : value > 27'(Y_MAX) ? 9'(Y_MAX) : value[8:0];
        end
    end
endmodule

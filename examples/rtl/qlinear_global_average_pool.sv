// QLinearGlobalAveragePool: the mean of a channel's pixels, which come one a clock.
//
// The sum is a processing element's whose weights are 1, and the division by the number of pixels is
// part of the requantizer's factor, x_scale / (y_scale * pixels).
//
// One pixel a clock; y five clocks after the channel's last. A word moves at a rising edge of the clock at
// which its valid and its ready are both 1.

module qlinear_global_average_pool #(
    parameter int PIXELS = 64,
    parameter int Y_MIN = -128,
    parameter int Y_MAX = 127
) (
    input  logic              clk,
    input  logic              reset,
    input  logic              x_valid,
    output logic              x_ready,
    input  logic signed [8:0] x,             // x - x_zero_point
    input  logic [23:0]       mantissa,      // these three are the layer's
    input  logic [7:0]        shift,
    input  logic signed [8:0] y_zero_point,
    output logic              y_valid,
    input  logic              y_ready,
    output logic signed [8:0] y
);
    localparam int ACC = $clog2(PIXELS) + 9;
    localparam int COUNT = $clog2(PIXELS);

    logic                  acc_valid, acc_ready;
    logic signed [ACC-1:0] acc;
    logic [COUNT-1:0]      pixel;
    wire                   last = pixel == COUNT'(PIXELS - 1);

    always_ff @(posedge clk)
        if (reset) pixel <= '0;
        else if (x_valid && x_ready) pixel <= last ? '0 : pixel + 1'b1;

    qlinearconv_pe #(.ACC(ACC)) sum (
        .clk(clk), .reset(reset), .in_valid(x_valid), .in_ready(x_ready), .first(pixel == '0),
        .last(last), .bias({ACC{1'b0}}), .x(x), .w(9'sd1), .acc_valid(acc_valid), .acc_ready(acc_ready), .acc(acc)
    );

    requantizer #(.ACC(ACC), .Y_MIN(Y_MIN), .Y_MAX(Y_MAX)) stage2 (
        .clk(clk), .reset(reset), .acc_valid(acc_valid), .acc_ready(acc_ready), .acc(acc),
        .mantissa(mantissa), .shift(shift), .y_zero_point(y_zero_point),
        .y_valid(y_valid), .y_ready(y_ready), .y(y)
    );
endmodule

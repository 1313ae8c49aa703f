// The end of a residual block: a convolution's processing element, its requantizer, and the addition of
// the shortcut. Each waits for the next by valid and ready.

module residual_chain #(
    parameter int ACC = 22
) (
    input  logic                  clk,
    input  logic                  reset,
    input  logic                  in_valid,
    output logic                  in_ready,
    input  logic                  first,
    input  logic                  last,
    input  logic signed [ACC-1:0] bias,
    input  logic signed [8:0]     x,
    input  logic signed [8:0]     w,
    input  logic [23:0]           mantissa,      // of the channel of these pairs
    input  logic [7:0]            shift,
    input  logic signed [8:0]     y_zero_point,  // of the convolution's output, which is a
    input  logic                  b_valid,
    output logic                  b_ready,
    input  logic signed [8:0]     b,             // the shortcut
    input  logic [21:0]           factor_a,
    input  logic [21:0]           factor_b,
    input  logic signed [31:0]    constant,
    output logic                  c_valid,
    input  logic                  c_ready,
    output logic signed [8:0]     c
);
    logic                  acc_valid, acc_ready, y_valid, y_ready;
    logic signed [ACC-1:0] acc;
    logic signed [8:0]     y;
    logic [23:0]           acc_mantissa;  // of acc's channel: the next pairs may be another's
    logic [7:0]            acc_shift;

    always_ff @(posedge clk)
        if (in_valid && in_ready && last) {acc_mantissa, acc_shift} <= {mantissa, shift};

    qlinearconv_pe #(.ACC(ACC)) stage1 (
        .clk(clk), .reset(reset), .in_valid(in_valid), .in_ready(in_ready), .first(first), .last(last),
        .bias(bias), .x(x), .w(w), .acc_valid(acc_valid), .acc_ready(acc_ready), .acc(acc)
    );

    requantizer #(.ACC(ACC)) stage2 (
        .clk(clk), .reset(reset), .acc_valid(acc_valid), .acc_ready(acc_ready), .acc(acc),
        .mantissa(acc_mantissa), .shift(acc_shift), .y_zero_point(y_zero_point),
        .y_valid(y_valid), .y_ready(y_ready), .y(y)
    );

    qlinear_add add (
        .clk(clk), .reset(reset), .a_valid(y_valid), .a_ready(y_ready), .a(y),
        .b_valid(b_valid), .b_ready(b_ready), .b(b), .factor_a(factor_a), .factor_b(factor_b),
        .constant(constant), .c_valid(c_valid), .c_ready(c_ready), .c(c)
    );
endmodule

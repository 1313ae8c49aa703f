// Drives qlinearconv_pe with golden vectors and compares every accumulator and every output.
// layer.vh and the .hex files come from: python -m qlinear vectors MODEL --out DIR
// Run in a layer's folder; +image=NN chooses the image. Prints PASS or FAIL, and the first mismatch.
`include "layer.vh"

module testbench;
    localparam integer TAPS = (`C_IN / `GROUPS) * `K_H * `K_W;
    localparam integer OUTPUTS = `C_OUT * `H_OUT * `W_OUT;

    reg [7:0] x_mem [0:`C_IN * `H_IN * `W_IN - 1];
    reg [7:0] w_mem [0:`C_OUT * TAPS - 1];
    reg [7:0] w_zero [0:`C_OUT - 1];
    reg [31:0] bias_mem [0:`C_OUT - 1];
    reg [31:0] mantissa_mem [0:`C_OUT - 1];
    reg [31:0] shift_mem [0:`C_OUT - 1];
    reg [31:0] acc_mem [0:OUTPUTS - 1];
    reg [7:0] y_mem [0:OUTPUTS - 1];

    reg clk = 0, start = 0, valid = 0, last = 0;
    reg signed [8:0] x, w;
    reg signed [31:0] bias;
    reg [23:0] mantissa;
    reg [7:0] shift;
    wire signed [31:0] acc;
    wire signed [8:0] y;
    wire done;

    qlinearconv_pe #(.Y_ZERO(`Y_ZERO), .Y_MIN(`Y_MIN), .Y_MAX(`Y_MAX)) pe (
        .clk(clk), .start(start), .valid(valid), .last(last), .bias(bias), .x(x), .w(w),
        .mantissa(mantissa), .shift(shift), .acc(acc), .y(y), .done(done)
    );

    integer m, oy, ox, c, ky, kx, iy, ix, first, at, out, wrong;
    reg [8*8-1:0] image;

    function signed [8:0] wide(input [7:0] v, input is_signed);
        wide = is_signed ? {v[7], v} : {1'b0, v};
    endfunction

    initial begin
        if (!$value$plusargs("image=%s", image)) image = "00";
        $readmemh({"image", image[15:0], "_x.hex"}, x_mem);
        $readmemh({"image", image[15:0], "_acc.hex"}, acc_mem);
        $readmemh({"image", image[15:0], "_y.hex"}, y_mem);
        $readmemh("w.hex", w_mem);
        $readmemh("w_zero_point.hex", w_zero);
        $readmemh("bias.hex", bias_mem);
        $readmemh("mantissa.hex", mantissa_mem);
        $readmemh("shift.hex", shift_mem);
        wrong = 0;
        out = 0;
        for (m = 0; m < `C_OUT; m = m + 1)
            for (oy = 0; oy < `H_OUT; oy = oy + 1)
                for (ox = 0; ox < `W_OUT; ox = ox + 1) begin
                    run_element;
                    if (acc !== acc_mem[out] || y !== wide(y_mem[out], `Y_MIN < 0)) begin
                        if (wrong == 0)
                            $display("first mismatch at channel %0d, row %0d, column %0d: acc %0d, expected %0d; y %0d, expected %0d",
                                     m, oy, ox, acc, $signed(acc_mem[out]), y, wide(y_mem[out], `Y_MIN < 0));
                        wrong = wrong + 1;
                    end
                    out = out + 1;
                end
        if (wrong == 0) $display("PASS: %0d outputs equal", OUTPUTS);
        else $display("FAIL: %0d of %0d outputs differ", wrong, OUTPUTS);
        $finish;
    end

    // one output element: TAPS clocks, one product each; padding is a product of zero
    task run_element;
        begin
            bias = bias_mem[m];
            mantissa = mantissa_mem[m][23:0];
            shift = shift_mem[m][7:0];
            first = (m / (`C_OUT / `GROUPS)) * (`C_IN / `GROUPS);
            at = 0;
            for (c = 0; c < `C_IN / `GROUPS; c = c + 1)
                for (ky = 0; ky < `K_H; ky = ky + 1)
                    for (kx = 0; kx < `K_W; kx = kx + 1) begin
                        iy = oy * `STRIDE_H + ky * `DILATION_H - `PAD_TOP;
                        ix = ox * `STRIDE_W + kx * `DILATION_W - `PAD_LEFT;
                        if (iy < 0 || iy >= `H_IN || ix < 0 || ix >= `W_IN) x = 0;
                        else x = wide(x_mem[((first + c) * `H_IN + iy) * `W_IN + ix], `X_SIGNED) - `X_ZERO;
                        w = wide(w_mem[m * TAPS + at], `W_SIGNED) - wide(w_zero[m], `W_SIGNED);
                        start = (at == 0);
                        last = (at == TAPS - 1);
                        valid = 1;
                        at = at + 1;
                        #1 clk = 1;
                        #1 clk = 0;
                    end
        end
    endtask
endmodule

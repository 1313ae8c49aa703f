// Drives qlinearconv_pe and the requantizer behind it with golden vectors, and compares every
// accumulator and every output. It needs no Python; the benches for cocotb (run.py) ask more.
//   python -m qlinear vectors models/resnet8_int8.onnx --out vectors --node stem_quant --images 1
//   cd vectors/01_stem_quant
//   RTL=../../examples/rtl
//   iverilog -g2012 -I . -s testbench -o bench $RTL/*.sv $RTL/testbench.v && vvp -n bench
// Run in a layer's folder, where layer.vh and the .hex files are; +image=N chooses the image.
// Prints PASS with what was compared, or FAIL with the first mismatch, or with the file and the word
// (counted from 0) that cannot be used. The exit status is 0 for PASS alone, else 1 under Icarus
// Verilog and 134 under Verilator (--binary --timing -Wno-WIDTH): $fatal sets it in both.
// With THRESHOLDS defined, for vectors made with --thresholds, it also gives stage 2 every
// accumulator at which an output steps: as stage 2 never decreases, it is then right on all.
`include "layer.vh"
`ifdef THRESHOLDS
`include "thresholds.vh"
`endif

module testbench;
    localparam integer TAPS = (`C_IN / `GROUPS) * `K_H * `K_W;
    localparam integer OUTPUTS = `C_OUT * `H_OUT * `W_OUT;
    localparam integer INPUTS = `C_IN * `H_IN * `W_IN;
    localparam signed [8:0] Y_ZERO = `Y_ZERO;

    reg [7:0] x_mem [0:INPUTS - 1];
    reg [7:0] w_mem [0:`C_OUT * TAPS - 1];
    reg [7:0] w_zero [0:`C_OUT - 1];
    reg [31:0] bias_mem [0:`C_OUT - 1];
    reg [31:0] mantissa_mem [0:`C_OUT - 1];
    reg [31:0] shift_mem [0:`C_OUT - 1];
    reg [31:0] acc_mem [0:OUTPUTS - 1];
    reg [7:0] y_mem [0:OUTPUTS - 1];

`ifdef THRESHOLDS
    reg [31:0] step_channel [0:`THRESHOLDS_COUNT - 1];
    reg [31:0] step_acc [0:`THRESHOLDS_COUNT - 1];
    reg [7:0] step_y [0:`THRESHOLDS_COUNT - 1];
`endif

    reg clk = 0, reset = 1, first = 0, valid = 0, last = 0;
    reg signed [8:0] x, w;
    reg signed [31:0] bias;
    reg [23:0] mantissa;
    reg [7:0] shift;
    wire in_ready, acc_valid, acc_ready, y_valid;
    wire signed [31:0] acc;
    wire signed [8:0] y;

    qlinearconv_pe #(.ACC(32)) pe (
        .clk(clk), .reset(reset), .in_valid(valid), .in_ready(in_ready), .first(first), .last(last),
        .bias(bias), .x(x), .w(w), .acc_valid(acc_valid), .acc_ready(acc_ready), .acc(acc)
    );

    requantizer #(.ACC(25), .Y_MIN(`Y_MIN), .Y_MAX(`Y_MAX)) stage2 (
        .clk(clk), .reset(reset), .acc_valid(acc_valid), .acc_ready(acc_ready),
        .acc(acc[24:0]), .mantissa(mantissa), .shift(shift), .y_zero_point(Y_ZERO), .y_valid(y_valid),
        .y_ready(1'b1), .y(y)
    );

    // of the element before: its accumulator, and whether it was there when it had to be
    reg signed [31:0] sum;
    reg there;

    integer m, oy, ox, c, ky, kx, iy, ix, channel, at, out, wrong;

    // the file that is being read: `size` words of `digits` digits, whose values fit in `bits` bits
    integer image, file, size, digits, bits, i, k;
    reg [8*24-1:0] name;
    reg [8*9-1:0] text;  // the longest word, and room to see one that is longer
    reg [4:0] digit;
    reg [31:0] word;

    function signed [8:0] wide(input [7:0] v, input is_signed);
        wide = is_signed ? {v[7], v} : {1'b0, v};
    endfunction

    initial begin
        if (OUTPUTS < 1) $fatal(1, "FAIL: layer.vh: no outputs to compare");
        if (!$value$plusargs("image=%d", image)) image = 0;
        $sformat(name, "image%02d_x.hex", image);
        open(INPUTS, 2, 8);
        for (i = 0; i < size; i = i + 1) begin next_word; x_mem[i] = word[7:0]; end
        close;
        $sformat(name, "image%02d_acc.hex", image);
        open(OUTPUTS, 8, 32);
        for (i = 0; i < size; i = i + 1) begin next_word; acc_mem[i] = word; end
        close;
        $sformat(name, "image%02d_y.hex", image);
        open(OUTPUTS, 2, 8);
        for (i = 0; i < size; i = i + 1) begin next_word; y_mem[i] = word[7:0]; end
        close;
        name = "w.hex";
        open(`C_OUT * TAPS, 2, 8);
        for (i = 0; i < size; i = i + 1) begin next_word; w_mem[i] = word[7:0]; end
        close;
        name = "w_zero_point.hex";
        open(`C_OUT, 2, 8);
        for (i = 0; i < size; i = i + 1) begin next_word; w_zero[i] = word[7:0]; end
        close;
        name = "bias.hex";
        open(`C_OUT, 8, 32);
        for (i = 0; i < size; i = i + 1) begin next_word; bias_mem[i] = word; end
        close;
        name = "mantissa.hex";
        open(`C_OUT, 8, 24);
        for (i = 0; i < size; i = i + 1) begin next_word; mantissa_mem[i] = word; end
        close;
        name = "shift.hex";
        open(`C_OUT, 8, 8);
        for (i = 0; i < size; i = i + 1) begin next_word; shift_mem[i] = word; end
        close;
`ifdef THRESHOLDS
        name = "thresholds_channel.hex";
        open(`THRESHOLDS_COUNT, 8, 32);
        for (i = 0; i < size; i = i + 1) begin next_word; step_channel[i] = word; end
        close;
        name = "thresholds_acc.hex";
        open(`THRESHOLDS_COUNT, 8, 32);
        for (i = 0; i < size; i = i + 1) begin next_word; step_acc[i] = word; end
        close;
        name = "thresholds_y.hex";
        open(`THRESHOLDS_COUNT, 2, 8);
        for (i = 0; i < size; i = i + 1) begin next_word; step_y[i] = word[7:0]; end
        close;
`endif
        tick;
        reset = 0;
        wrong = 0;
        out = 0;
        for (m = 0; m < `C_OUT; m = m + 1)
            for (oy = 0; oy < `H_OUT; oy = oy + 1)
                for (ox = 0; ox < `W_OUT; ox = ox + 1) begin
                    run_element;
                    if (there !== 1'b1 || sum !== acc_mem[out]
                        || y !== wide(y_mem[out], `Y_MIN < 0)) begin
                        if (wrong == 0)
                            $display("first mismatch at channel %0d, row %0d, column %0d: there %b; acc %0d, expected %0d; y %0d, expected %0d",
                                     m, oy, ox, there, sum, $signed(acc_mem[out]),
                                     y, wide(y_mem[out], `Y_MIN < 0));
                        wrong = wrong + 1;
                    end
                    out = out + 1;
                end
`ifdef THRESHOLDS
        for (i = 0; i < `THRESHOLDS_COUNT; i = i + 1) begin
            run_step;
            if (there !== 1'b1 || y !== wide(step_y[i], `Y_MIN < 0)) begin
                if (wrong == 0)
                    $display("first mismatch at threshold %0d, channel %0d, acc %0d: there %b; y %0d, expected %0d",
                             i, m, bias, there, y, wide(step_y[i], `Y_MIN < 0));
                wrong = wrong + 1;
            end
        end
        if (wrong == 0) $display("PASS: %0d thresholds equal", i);
        out = out + i;
`endif
        if (wrong != 0) $fatal(1, "FAIL: image %02d: %0d of %0d outputs differ", image, wrong, out);
        out = OUTPUTS;
        $display("PASS: image %02d: %0d accumulators and %0d outputs equal", image, out, out);
        $finish;
    end

    // Files are read word by word: $readmemh only warns of a missing or short one, and leaves X,
    // which a two-state simulator does not even have.
    task open(input integer words, input integer word_digits, input integer word_bits);
        begin
            size = words;
            digits = word_digits;
            bits = word_bits;
            file = $fopen(name, "r");
            if (file == 0) $fatal(1, "FAIL: %0s: cannot be read", name);
        end
    endtask

    task next_word;
        begin
            if ($fscanf(file, "%s", text) != 1)
                $fatal(1, "FAIL: %0s: ends before word %0d; %0d words are needed", name, i, size);
            word = 0;
            for (k = 0; k < digits; k = k + 1) begin
                digit = hex_digit(text[8*k +: 8]);
                if (digit[4])
                    $fatal(1, "FAIL: %0s: word %0d is %0s, not %0d hexadecimal digits",
                           name, i, text, digits);
                word[4*k +: 4] = digit[3:0];
            end
            if (text >> 8 * digits != 0)
                $fatal(1, "FAIL: %0s: word %0d has more than %0d digits", name, i, digits);
            if (bits < 32 && word >> bits != 0)
                $fatal(1, "FAIL: %0s: word %0d does not fit in %0d bits", name, i, bits);
        end
    endtask

    task close;
        begin
            if ($fscanf(file, "%s", text) == 1)
                $fatal(1, "FAIL: %0s: has more than %0d words", name, size);
            $fclose(file);
        end
    endtask

    // the value of a character, or 16 where it is no hexadecimal digit
    function [4:0] hex_digit(input [7:0] character);
        if (character >= "0" && character <= "9") hex_digit = character - "0";
        else if (character >= "a" && character <= "f") hex_digit = character - "a" + 10;
        else if (character >= "A" && character <= "F") hex_digit = character - "A" + 10;
        else hex_digit = 16;
    endfunction

`ifdef THRESHOLDS
    // one product of zero: the accumulator is the bias
    task run_step;
        begin
            m = step_channel[i];
            bias = step_acc[i];
            mantissa = mantissa_mem[m][23:0];
            shift = shift_mem[m][7:0];
            x = 0;
            w = 0;
            first = 1;
            last = 1;
            valid = 1;
            tick;
            finish;
        end
    endtask
`endif

    task tick;
        begin
            #1 clk = 1;
            #1 clk = 0;
        end
    endtask

    // the sum is there right behind its last pair, and y four clocks after it
    task finish;
        begin
            there = acc_valid && acc_ready;
            sum = acc;
            valid = 0;
            repeat (4) tick;
            there = there && in_ready && y_valid;
        end
    endtask

    // one output element: TAPS clocks, one product each; padding is a product of zero
    task run_element;
        begin
            bias = bias_mem[m];
            mantissa = mantissa_mem[m][23:0];
            shift = shift_mem[m][7:0];
            channel = (m / (`C_OUT / `GROUPS)) * (`C_IN / `GROUPS);
            at = 0;
            for (c = 0; c < `C_IN / `GROUPS; c = c + 1)
                for (ky = 0; ky < `K_H; ky = ky + 1)
                    for (kx = 0; kx < `K_W; kx = kx + 1) begin
                        iy = oy * `STRIDE_H + ky * `DILATION_H - `PAD_TOP;
                        ix = ox * `STRIDE_W + kx * `DILATION_W - `PAD_LEFT;
                        if (iy < 0 || iy >= `H_IN || ix < 0 || ix >= `W_IN) x = 0;
                        else x = wide(x_mem[((channel + c) * `H_IN + iy) * `W_IN + ix], `X_SIGNED) - `X_ZERO;
                        w = wide(w_mem[m * TAPS + at], `W_SIGNED) - wide(w_zero[m], `W_SIGNED);
                        first = (at == 0);
                        last = (at == TAPS - 1);
                        valid = 1;
                        at = at + 1;
                        tick;
                    end
            finish;
        end
    endtask
endmodule

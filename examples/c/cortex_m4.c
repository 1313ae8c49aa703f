/* What a Cortex-M4 without an operating system needs besides: where its stack and its program start.
 *
 * For the board that `qemu-system-arm -M mps2-an386` emulates, whose memory starts at 0. Newlib's
 * rdimon library reads files and hands on the exit status through the emulator (semihosting):
 *
 *   arm-none-eabi-gcc -std=c99 -Os -mcpu=cortex-m4 -mthumb -mfloat-abi=soft -I build \
 *       examples/c/resnet8.c examples/c/resnet8_check.c examples/c/cortex_m4.c \
 *       --specs=rdimon.specs -Wl,--section-start=.vectors=0 -o build/check.elf
 *   qemu-system-arm -M mps2-an386 -display none -kernel build/check.elf \
 *       -semihosting-config enable=on,target=native,arg=check,arg=build/resnet8.bin
 */
extern void _start(void);

struct vectors {
    void *stack;
    void (*start)(void);
};

extern const struct vectors vectors;
__attribute__((section(".vectors"), used)) const struct vectors vectors = {(void *)0x400000, _start};

/* Checks resnet8.c against ONNX Runtime's tensors, as resnet8.c says.
 *
 * The file holds the number of images (32 bits, little-endian); then of each image its pixels and
 * every tensor in the order in which the network computes it, an element a byte.
 *
 * Prints PASS and exits with status 0, or FAIL with the first mismatch and status 1.
 */
#include <stdio.h>
#include <stdlib.h>

#include "resnet8.h"

static FILE *file;
static unsigned long image, equal;

static void fail(const char *why)
{
    printf("FAIL: %s\n", why);
    exit(1);
}

static int next_byte(void)
{
    const int byte = getc(file);
    if (byte == EOF)
        fail("the file ends early");
    return byte;
}

void resnet8_tensor(const char *name, const int8_t *values, int count)
{
    for (int i = 0; i < count; i++, equal++) {
        const int expected = (next_byte() + 128) % 256 - 128;
        if (values[i] != expected) {
            printf("first mismatch in image %lu, %s, element %d: %d, expected %d\n",
                   image, name, i, values[i], expected);
            fail("a value differs");
        }
    }
}

int main(int argc, char **argv)
{
    static uint8_t pixels[IMAGE];
    int8_t logits[CLASSES];
    unsigned long images = 0;

    if (argc != 2 || (file = fopen(argv[1], "rb")) == NULL)
        fail("name a file that export_c.py wrote");
    for (int i = 0; i < 4; i++)
        images |= (unsigned long)next_byte() << 8 * i;
    if (images == 0)
        fail("the file holds no image");
    for (image = 0; image < images; image++) {
        for (int i = 0; i < IMAGE; i++)
            pixels[i] = (uint8_t)next_byte();
        resnet8(pixels, logits);
    }
    if (getc(file) != EOF)
        fail("the file goes on after its last image");
    printf("PASS: %lu images, %lu values equal\n", images, equal);
    return 0;
}

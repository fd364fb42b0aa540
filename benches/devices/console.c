// How many bytes a second a guest's console takes: 10 MB, in lines. Prints `device console NUMBER`.
//
// Usage: console DEVICE.

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "measure.h"

#define TOTAL 10000000
#define LINE 100

int main(int count, char **arguments) {
    static char text[LINE * 100];
    struct termios mode;
    if (count != 2)
        return 2;
    int console = open(arguments[1], O_RDWR | O_NOCTTY);
    if (console < 0)
        fail(arguments[1]);
    if (tcgetattr(console, &mode) != 0)
        fail("tcgetattr");
    cfmakeraw(&mode);
    if (tcsetattr(console, TCSANOW, &mode) != 0)
        fail("tcsetattr");
    memset(text, 'x', sizeof text);
    for (size_t at = LINE - 1; at < sizeof text; at += LINE)
        text[at] = '\n';
    double start = now();
    for (long left = TOTAL; left > 0;) {
        ssize_t written = write(console, text, left < (long)sizeof text ? (size_t)left : sizeof text);
        if (written < 0)
            fail("write");
        left -= written;
    }
    if (tcdrain(console) != 0)
        fail("tcdrain");
    printf("device console %.0f\n", TOTAL / (now() - start));
    return 0;
}

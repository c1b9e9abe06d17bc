/* format.h: numbers, times and bars for people. Texts end in out, which is returned. */
#ifndef PGBATON_PROXY_CLI_FORMAT_H
#define PGBATON_PROXY_CLI_FORMAT_H

#include <stddef.h>
#include <stdio.h>

enum { FORMAT_SIZE = 48 };

/* "0 B", "1.5 MB": powers of 1000. */
char *format_bytes(double bytes, char out[FORMAT_SIZE]);
/* "0.3 s", "4 min 10 s", "3 h 5 min", "2 d 4 h"; "?" when negative. */
char *format_seconds(double seconds, char out[FORMAT_SIZE]);
/* "1,234,567" */
char *format_count(double count, char out[FORMAT_SIZE]);
/* "[#####-----]  50 %"; done of total, 0 of 0 is empty. width: 1 to 36 marks. */
char *format_bar(double done, double total, int width, char out[FORMAT_SIZE]);
/* Text from elsewhere: control characters (terminal escapes) become '?'. */
void print_plain(FILE *out, const char *text);

#endif

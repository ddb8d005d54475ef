/* Calls each kernel on the buffers in the file `in` and writes them to the file `out`. The test fills in the table. */
#include <stdio.h>
#include <stdlib.h>

struct lathe_ctx { unsigned int thread, threads; };
typedef int kernel(const struct lathe_ctx *, unsigned char *const *, const long long *, unsigned char *, long long, long long);
/* declarations */

static const struct { const char *name; kernel *function; long long grid; size_t workspace; size_t sizes[24]; } rows[] = {
/* rows */
};

int main(void) {
    FILE *in = fopen("in", "rb"), *out = fopen("out", "wb");
    if (!in || !out) return 1;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct lathe_ctx context = {0, 1};
        unsigned char *buffers[24] = {0};
        for (int b = 0; b < 24 && rows[i].sizes[b]; b++) {
            buffers[b] = aligned_alloc(64, (rows[i].sizes[b] + 63) / 64 * 64);
            if (fread(buffers[b], 1, rows[i].sizes[b], in) != rows[i].sizes[b]) return 2;
        }
        unsigned char *workspace = aligned_alloc(64, (rows[i].workspace + 63) / 64 * 64);
        if (rows[i].function(&context, buffers, 0, workspace, 0, rows[i].grid)) {
            fprintf(stderr, "%s stops\n", rows[i].name);
            return 3;
        }
        for (int b = 0; b < 24 && rows[i].sizes[b]; b++) {
            if (fwrite(buffers[b], 1, rows[i].sizes[b], out) != rows[i].sizes[b]) return 4;
            free(buffers[b]);
        }
        free(workspace);
    }
    return fclose(out) ? 5 : 0;
}

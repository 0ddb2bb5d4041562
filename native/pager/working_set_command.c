#define _GNU_SOURCE
#include "working_set_command.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "working_set.h"

#define EXIT_WRONGLY_ASKED 2
#define MAX_RECORDS 1024 /* far more than ever make a set better */

struct order {
        const char *image_path, *out_path;
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        uint64_t budget_pages;
        bool has_digest, has_budget;
        char **record_paths; /* borrowed */
        size_t n_records;
};

/* Returns the exit status, having said why on standard error. */
__attribute__((format(printf, 1, 2))) static int refuse(const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        fputs("error: snap-pager working-set: ", stderr);
        vfprintf(stderr, format, arguments);
        fputc('\n', stderr);
        va_end(arguments);
        return EXIT_WRONGLY_ASKED;
}

static const char *reason(int error)
{
        if (error == -ESTALE)
                return "it does not belong to the image, or that was changed meanwhile; seal the image, record again";
        if (error == -EBADMSG)
                return "it is damaged, or no record; remove it, record again";
        return strerror(-error);
}

static int fail(const char *doing, const char *path, int error)
{
        fprintf(stderr, "error: snap-pager working-set: %s %s: %s\n", doing, path, reason(error));
        return EXIT_FAILURE;
}

static int hex_digit(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_digest(const char *text, uint8_t *ret_digest)
{
        uint8_t digest[WORKING_SET_DIGEST_BYTES];

        if (strlen(text) != 2 * sizeof(digest))
                return false;
        for (size_t i = 0; i < sizeof(digest); i++) {
                int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

                if (high < 0 || low < 0)
                        return false;
                digest[i] = (uint8_t)(high * 16 + low);
        }
        memcpy(ret_digest, digest, sizeof(digest));
        return true;
}

/* Digits alone: strtoull(3) would take a sign and white space too. */
static bool read_count(const char *text, uint64_t *ret_count)
{
        char *end;
        unsigned long long count;

        if (text[strspn(text, "0123456789")] || !*text)
                return false;
        errno = 0;
        count = strtoull(text, &end, 10);
        if (errno || count == 0)
                return false;
        *ret_count = count;
        return true;
}

static int take_option(int option, const char *value, struct order *order)
{
        switch (option) {
        case 'i':
                order->image_path = value;
                return 0;
        case 'o':
                order->out_path = value;
                return 0;
        case 'd':
                order->has_digest = read_digest(value, order->digest);
                return order->has_digest ? 0 : refuse("--digest takes 64 hexadecimal digits in lower case, not \"%s\"",
                                                      value);
        case 'b':
                order->has_budget = read_count(value, &order->budget_pages);
                return order->has_budget ? 0 : refuse("--budget-pages takes a number of pages from 1 on, not \"%s\"",
                                                      value);
        default:
                return refuse("no such option, or one without its value; usage: --image PATH --digest HEX --out PATH "
                              "--budget-pages N RECORD...");
        }
}

static int parse(int argc, char **argv, struct order *ret_order)
{
        static const struct option options[] = {
                { "image", required_argument, NULL, 'i' },
                { "digest", required_argument, NULL, 'd' },
                { "out", required_argument, NULL, 'o' },
                { "budget-pages", required_argument, NULL, 'b' },
                { 0 },
        };
        struct order order = { 0 };
        int option, status = 0;

        opterr = 0;
        optind = 0; /* whatever was parsed before, this begins anew */
        while (status == 0 && (option = getopt_long(argc, argv, "", options, NULL)) >= 0)
                status = take_option(option, optarg, &order);
        if (status)
                return status;
        order.record_paths = argv + optind;
        order.n_records = (size_t)(argc - optind);
        if (!order.image_path || !order.out_path || !order.has_digest || !order.has_budget)
                return refuse("--image, --digest, --out and --budget-pages are all needed");
        if (order.n_records == 0 || order.n_records > MAX_RECORDS)
                return refuse("1 to %d records are merged, not %zu", MAX_RECORDS, order.n_records);
        *ret_order = order;
        return 0;
}

/* A share that is not known is null. */
static void print_share(const char *name, double share, const char *end)
{
        if (share < 0)
                printf("\"%s\":null%s", name, end);
        else
                printf("\"%s\":%.6f%s", name, share, end);
}

static int report(const struct working_set_report *made)
{
        printf("{\"pages\":%ju,\"runs\":%ju,\"data_bytes\":%ju,\"dropped_pages\":%ju,", (uintmax_t)made->pages,
               (uintmax_t)made->runs, (uintmax_t)made->data_bytes, (uintmax_t)made->dropped_pages);
        print_share("precision", made->precision, ",");
        print_share("recall", made->recall, "}\n");
        if (fflush(stdout) || ferror(stdout))
                return fail("writing to", "standard output", -EIO);
        return EXIT_SUCCESS;
}

static int build(const struct order *order, const struct image *image, const struct record *records)
{
        struct working_set_report made;
        int r = working_set_build(records, order->n_records, image, order->digest, order->budget_pages, order->out_path,
                                  &made);

        return r ? fail("writing", order->out_path, r) : report(&made);
}

/* Read as many of the records as can be read. Returns how many; fewer than all with @ret_error set. */
static size_t read_records(const struct order *order, const struct image *image, struct record *records, int *ret_error)
{
        for (size_t i = 0; i < order->n_records; i++) {
                int r = record_read(order->record_paths[i], image, order->digest, &records[i]);

                if (r) {
                        *ret_error = r;
                        return i;
                }
        }
        return order->n_records;
}

static int merge(const struct order *order, const struct image *image)
{
        struct record *records = calloc(order->n_records, sizeof(*records));
        size_t n_read;
        int error = 0, status;

        if (!records)
                return fail("reading", "the records", -ENOMEM);
        n_read = read_records(order, image, records, &error);
        if (error)
                status = fail("reading record", order->record_paths[n_read], error);
        else
                status = build(order, image, records);
        for (size_t i = 0; i < n_read; i++)
                record_release(&records[i]);
        free(records);
        return status;
}

int working_set_command(int argc, char **argv)
{
        struct order order;
        struct image image;
        int status = parse(argc, argv, &order), r;

        if (status)
                return status;
        r = image_open(order.image_path, &image);
        if (r)
                return fail("opening image", order.image_path, r);
        status = merge(&order, &image);
        image_close(&image);
        return status;
}

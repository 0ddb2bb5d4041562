#include "working_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "merge.h"
#include "whole_file.h"
#include "working_set_file.h"

#define PAGE ((uint64_t)IMAGE_PAGE_BYTES)
#define BUFFER_PAGES WORKING_SET_CHUNK_PAGES

/* A working set on its way into a file. */
struct writer {
        const struct image *image;
        struct whole_file file;
        struct working_set_header *header; /* all that comes before the content; owned */
        size_t head_bytes;
        uint64_t *hashes; /* behind the header's runs */
        uint8_t *buffer; /* of a chunk; owned */
        uint64_t buffered, written; /* pages */
};

static int flush_chunk(struct writer *writer)
{
        uint64_t n_bytes = writer->buffered * PAGE;
        int r;

        if (n_bytes == 0)
                return 0;
        writer->hashes[writer->written / WORKING_SET_CHUNK_PAGES] = chunk_hash(writer->buffer, n_bytes);
        r = whole_file_write(&writer->file, writer->buffer, n_bytes, writer->head_bytes + writer->written * PAGE);
        writer->written += writer->buffered;
        writer->buffered = 0;
        return r;
}

/* Read with a call, not through the mapping: of an image that is cut or cannot be read comes an error. */
static int put_pages(struct writer *writer, uint64_t page, uint64_t pages)
{
        uint8_t *at = writer->buffer + writer->buffered * PAGE;
        uint64_t offset = page * PAGE, left = writer->image->identity.size_bytes - offset;
        uint64_t n_bytes = pages * PAGE < left ? pages * PAGE : left;
        int r = file_read(writer->image->fd, at, n_bytes, offset);

        if (r)
                return r == -EBADMSG ? -ESTALE : r;
        memset(at + n_bytes, 0, pages * PAGE - n_bytes); /* behind the end of the image */
        writer->buffered += pages;
        return writer->buffered == BUFFER_PAGES ? flush_chunk(writer) : 0;
}

static int put_run(struct writer *writer, const struct run *run)
{
        uint64_t page = run->page, end = page + (run->flags & TOUCH_ZERO ? 0 : run->pages);
        int r = 0;

        while (r == 0 && page < end) {
                uint64_t room = BUFFER_PAGES - writer->buffered, pages = end - page < room ? end - page : room;

                r = put_pages(writer, page, pages);
                page += pages;
        }
        return r;
}

static int put_content(struct writer *writer, const struct merged *merged)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < merged->n_runs; i++)
                r = put_run(writer, &merged->runs[i]);
        return r ? r : flush_chunk(writer);
}

static struct working_set_header header_for(const struct image *image, const uint8_t *digest,
                                            const struct merged *merged, double recall)
{
        return (struct working_set_header){
                .tie = file_tie(WORKING_SET_MAGIC, image, digest),
                .n_runs = merged->n_runs,
                .n_pages = merged->n_pages,
                .n_data_pages = merged->n_data_pages,
                .recall = recall < 0 ? RECALL_UNKNOWN : (uint64_t)(recall * RECALL_SCALE + 0.5),
        };
}

static int make_head(struct writer *writer, const struct working_set_header *header, const struct merged *merged)
{
        writer->head_bytes = working_set_head_bytes(header);
        writer->header = calloc(1, writer->head_bytes);
        writer->buffer = malloc(BUFFER_PAGES * PAGE);
        if (!writer->header || !writer->buffer)
                return -ENOMEM;
        *writer->header = *header;
        memcpy(writer->header + 1, merged->runs, merged->n_runs * sizeof(*merged->runs));
        writer->hashes = (uint64_t *)((struct run *)(writer->header + 1) + merged->n_runs);
        return 0;
}

/* Give the file its name if it holds what the image held all the time. */
static int finish(struct writer *writer)
{
        int r = image_check(writer->image);

        if (r)
                return r;
        writer->header->hash = head_hash(writer->header, writer->head_bytes, sizeof(*writer->header));
        r = whole_file_write(&writer->file, writer->header, writer->head_bytes, 0);
        return r ? r : whole_file_keep(&writer->file);
}

static int write_set(const char *path, const struct image *image, const struct working_set_header *header,
                     const struct merged *merged)
{
        struct writer writer = { .image = image };
        int r = whole_file_open(path, &writer.file);

        if (r)
                return r;
        r = make_head(&writer, header, merged);
        r = r ? r : put_content(&writer, merged);
        r = r ? r : finish(&writer);
        whole_file_close(&writer.file);
        free(writer.header);
        free(writer.buffer);
        return r;
}

static struct working_set_report report_of(const struct merged *merged, double precision, double recall)
{
        return (struct working_set_report){
                .pages = merged->n_pages,
                .runs = merged->n_runs,
                .data_bytes = merged->n_data_pages * PAGE,
                .dropped_pages = merged->dropped_pages,
                .precision = precision,
                .recall = recall,
        };
}

int working_set_build(const struct record *records, size_t n, const struct image *image, const uint8_t *digest,
                      uint64_t budget_pages, const char *path, struct working_set_report *ret_report)
{
        struct working_set_header header;
        struct merged merged;
        double precision, recall;
        int r = n > 0 ? merge_records(records, n, MERGE_ALL, image, budget_pages, &merged) : -EINVAL;

        if (r)
                return r;
        r = merge_fit(records, n, image, budget_pages, &precision, &recall);
        if (r == 0) {
                header = header_for(image, digest, &merged, recall);
                r = write_set(path, image, &header, &merged);
        }
        if (r == 0)
                *ret_report = report_of(&merged, precision, recall);
        merged_release(&merged);
        return r;
}

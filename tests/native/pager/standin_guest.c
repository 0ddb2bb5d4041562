#define _GNU_SOURCE
#include "standin_guest.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fdutil.h"
#include "standin_die.h"

#ifndef UFFD_FEATURE_MINOR_SHMEM /* newer than some headers */
#define UFFD_FEATURE_MINOR_SHMEM (1 << 10)
#endif
#ifndef UFFDIO_REGISTER_MODE_MINOR
#define UFFDIO_REGISTER_MODE_MINOR ((uint64_t)1 << 2)
#endif

#define GAP_BYTES GUEST_HUGE_BYTES

void guest_parse_regions(struct guest *guest, const char *text)
{
        uint64_t offset = 0;
        char *end;

        for (const char *at = text; *at; at = *end ? end + 1 : end) {
                struct guest_region *region = &guest->regions[guest->n_regions++];

                if (guest->n_regions > GUEST_MAX_REGIONS)
                        DIE("too many regions");
                region->bytes = strtoull(at, &end, 0);
                region->page_bytes = *end == 'h' ? GUEST_HUGE_BYTES : PATTERN_PAGE_BYTES;
                end += *end == 'h';
                region->offset = offset;
                errno = EINVAL;
                if (!region->bytes || region->bytes % region->page_bytes || offset % region->page_bytes ||
                    (*end && *end != ','))
                        DIE(at);
                offset += region->bytes;
        }
        guest->n_pages = offset / PATTERN_PAGE_BYTES;
}

static bool is_shared_memory(int fd)
{
        struct statfs fs;

        if (fstatfs(fd, &fs) < 0)
                DIE("fstatfs of the image");
        return fs.f_type == TMPFS_MAGIC;
}

static void copy_data(int from, int to, off_t bytes)
{
        off_t data = 0;

        while (data < bytes) {
                off_t end;

                data = lseek(from, data, SEEK_DATA);
                if (data < 0 && errno == ENXIO)
                        return;
                end = lseek(from, data, SEEK_HOLE);
                if (data < 0 || end < 0 || lseek(to, data, SEEK_SET) < 0)
                        DIE("lseek in the image");
                while (data < end)
                        if (sendfile(to, from, &data, (size_t)(end - data)) <= 0)
                                DIE("sendfile of the image");
        }
}

static int copy_to_memfd(int from)
{
        int fd = memfd_create("standin-image", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        struct stat st;

        if (fd < 0 || fstat(from, &st) < 0 || ftruncate(fd, st.st_size) < 0)
                DIE("memfd of the image");
        copy_data(from, fd, st.st_size);
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
                DIE("sealing the image");
        return fd;
}

void guest_open_image(struct guest *guest, const char *path)
{
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        if (fd < 0)
                DIE(path);
        if (guest->is_sharing && !is_shared_memory(fd)) {
                guest->image_fd = copy_to_memfd(fd);
                close(fd);
        } else {
                guest->image_fd = fd;
        }
}

/* Map more than is needed and trim it: the rest keeps regions apart, so that the kernel does not merge
 * them, and aligns huge pages. */
static uint8_t *reserve(uint64_t bytes)
{
        uint8_t *memory = mmap(NULL, bytes + 2 * GAP_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (memory == MAP_FAILED)
                DIE("reserving guest memory");
        return (uint8_t *)(((uintptr_t)memory + GAP_BYTES) & ~(uintptr_t)(GAP_BYTES - 1));
}

static void map_region(const struct guest *guest, struct guest_region *region)
{
        int flags = MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE;

        region->memory = reserve(region->bytes);
        if (!guest->is_sharing)
                flags |= MAP_ANONYMOUS | (region->page_bytes == GUEST_HUGE_BYTES ? MAP_HUGETLB : 0);
        if (mmap(region->memory, region->bytes, PROT_READ | PROT_WRITE, flags,
                 guest->is_sharing ? guest->image_fd : -1, guest->is_sharing ? (off_t)region->offset : 0) == MAP_FAILED)
                DIE("mapping guest memory");
}

static void register_region(const struct guest *guest, const struct guest_region *region)
{
        struct uffdio_register order = {
                .range = {.start = (uintptr_t)region->memory, .len = region->bytes},
                .mode = UFFDIO_REGISTER_MODE_MISSING | (guest->is_sharing ? UFFDIO_REGISTER_MODE_MINOR : 0),
        };

        if (ioctl(guest->uffd_fd, UFFDIO_REGISTER, &order) < 0)
                DIE("UFFDIO_REGISTER");
}

static void make_uffd(struct guest *guest)
{
        struct uffdio_api api = {
                .api = UFFD_API,
                .features = (guest->has_removals ? UFFD_FEATURE_EVENT_REMOVE : 0) |
                            (guest->is_sharing ? UFFD_FEATURE_MINOR_SHMEM : 0),
        };

        guest->uffd_fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        if (guest->uffd_fd < 0)
                DIE("userfaultfd");
        if (ioctl(guest->uffd_fd, UFFDIO_API, &api) < 0)
                DIE("UFFDIO_API");
}

void guest_map(struct guest *guest)
{
        make_uffd(guest);
        for (size_t i = 0; i < guest->n_regions; i++) {
                map_region(guest, &guest->regions[i]);
                register_region(guest, &guest->regions[i]);
        }
}

const struct guest_region *guest_region_of(const struct guest *guest, uint64_t page)
{
        uint64_t offset = page * PATTERN_PAGE_BYTES;
        size_t i = 0;

        if (page >= guest->n_pages)
                DIE("a page beyond the guest's memory");
        while (offset - guest->regions[i].offset >= guest->regions[i].bytes)
                i++;
        return &guest->regions[i];
}

uint8_t *guest_page(const struct guest *guest, uint64_t page)
{
        const struct guest_region *region = guest_region_of(guest, page);

        return region->memory + (page * PATTERN_PAGE_BYTES - region->offset);
}

uint64_t guest_unit_pages(const struct guest *guest, uint64_t page)
{
        return guest_region_of(guest, page)->page_bytes / PATTERN_PAGE_BYTES;
}

void guest_remove(const struct guest *guest, uint64_t page, uint64_t pages)
{
        if (madvise(guest_page(guest, page), pages * PATTERN_PAGE_BYTES, MADV_DONTNEED) < 0)
                DIE("MADV_DONTNEED");
}

static bool is_in_guest(const struct guest *guest, uint64_t address)
{
        for (size_t i = 0; i < guest->n_regions; i++)
                if (address - (uintptr_t)guest->regions[i].memory < guest->regions[i].bytes)
                        return true;
        return false;
}

struct guest_memory guest_memory(const struct guest *guest)
{
        FILE *file = fopen("/proc/self/smaps", "re");
        struct guest_memory sum = {0};
        char line[4096];
        bool is_counted = false;

        if (!file)
                DIE("smaps");
        while (fgets(line, sizeof(line), file)) {
                uint64_t start, end, kb;

                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
                        is_counted = is_in_guest(guest, start);
                else if (!is_counted)
                        continue;
                else if (sscanf(line, "Rss: %" SCNu64, &kb) == 1)
                        sum.rss_kb += kb;
                else if (sscanf(line, "Pss: %" SCNu64, &kb) == 1)
                        sum.pss_kb += kb;
                else if (sscanf(line, "Private_Dirty: %" SCNu64, &kb) == 1)
                        sum.private_dirty_kb += kb;
        }
        fclose(file);
        return sum;
}

/* A userfaultfd of another process (Documentation/admin-guide/mm/userfaultfd.rst): what can be done
 * with it, and what came back in words of ours. */
#ifndef SNAPSTART_UFFD_H
#define SNAPSTART_UFFD_H

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>

/* What Linux 6.1's headers do not have. */
#ifndef UFFD_FEATURE_MINOR_SHMEM
#define UFFD_FEATURE_MINOR_SHMEM (1 << 10)
#endif

/* What is known of a descriptor that somebody handed over. */
struct uffd_facts {
        uint64_t device, inode; /* unlike every other userfaultfd's since Linux 5.12 */
        uint64_t features; /* that its owner asked for with UFFDIO_API */
};

/* See what @fd is.
 * Returns 0, -EBADF if it is no userfaultfd, -EPROTO if its owner did not finish UFFDIO_API, or another
 * negative errno. */
int uffd_inspect(int fd, struct uffd_facts *ret_facts);

/* Fill @bytes at @address with what is at @source, waking who waits for them. Returns the number of bytes
 * filled (may be fewer than asked), 0 if the first page is there already (who waits is woken then too),
 * -EAGAIN if the address space is changing (events have to be read first),
 * -ENOENT if nothing is mapped there (any more), -ESRCH if the process is gone,
 * -EFAULT if @source cannot be read, or another negative errno. */
int64_t uffd_copy(int fd, uint64_t address, const void *source, uint64_t bytes);

/* As uffd_copy(), with zeros that take no memory; not for huge pages (-EINVAL). */
int64_t uffd_zero(int fd, uint64_t address, uint64_t bytes);

/* As uffd_copy(), by mapping the pages of the shared file that are in its page cache; -EFAULT if one is
 * not. */
int64_t uffd_continue(int fd, uint64_t address, uint64_t bytes);

/* Wake who waits in the range; they fault again if the page is still missing. Returns 0 or a negative
 * errno. */
int uffd_wake(int fd, uint64_t address, uint64_t bytes);

/* Find a descriptor that process @pid holds of the file with @device, @inode.
 * Returns its number there, -ENOENT if it holds none, or another negative errno. */
int fd_find_in(int pid, uint64_t device, uint64_t inode);

/* Take number @number out of the process of @pidfd (pidfd_getfd(2): needs to be allowed to trace it).
 * Returns an owned descriptor, -ESTALE if it is not of the file with @device, @inode, or a negative errno. */
int fd_take_from(int pidfd, int number, uint64_t device, uint64_t inode);

#endif

/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/* What the module's two halves call of each other: host/kmod/src and the C files here. */
#ifndef UNIBODY_GLUE_H
#define UNIBODY_GLUE_H

#include <linux/spinlock_types.h>
#include <linux/types.h>

struct eventfd_ctx;
struct file;
struct fpu_guest;
struct mutex;
struct rcuwait;
struct unibody_notifier;
struct unibody_timer;
struct unibody_watch;

/*
 * Rust's half: src/lib.rs, src/deferred.rs, src/timer.rs, src/watch.rs,
 * src/descriptor.rs, src/mm.rs, src/virtualization.rs.
 */
int unibody_init(void);
void unibody_exit(void);
void unibody_run_deferred(void);
void unibody_expired(void *alarm);
bool unibody_signalled(void *watcher, struct unibody_watch *watch);
void *unibody_open(void);
void unibody_release(void *object);
long unibody_ioctl(void *object, unsigned int number, unsigned long argument);
ssize_t unibody_read(void *object, char __user *to, size_t size, loff_t *offset);
int unibody_may_map(void *object, unsigned long first, unsigned long count, bool plain);
void *unibody_mapped_page(void *object, unsigned long number);
void unibody_pages_change(void *pages, unsigned long start, unsigned long end);
void unibody_pages_changed(void *pages, unsigned long start, unsigned long end);
int unibody_processor_up(u32 processor);
void unibody_processor_down(u32 processor);
void unibody_reboot_begins(void);
void unibody_crash(void);
bool unibody_sleep_begins(void);
void unibody_sleep_ends(void);

/* glue.c */
void unibody_print(int level, const char *text, size_t length);
bool unibody_may_print(void);
void __noreturn unibody_bug(void);

/* heap.c */
void *unibody_alloc(size_t size, size_t align, bool zero);
void unibody_free(void *block);
bool unibody_free_may_sleep(const void *block);

/* deferred.c */
bool unibody_may_sleep(void);
void unibody_defer(void);
void unibody_flush_deferred(void);
void unibody_yield(void);

/* lock.c */
unsigned long unibody_lock(arch_spinlock_t *lock);
bool unibody_try_lock(arch_spinlock_t *lock, unsigned long *flags);
void unibody_unlock(arch_spinlock_t *lock, unsigned long flags);
bool unibody_is_locked(arch_spinlock_t *lock);

/* time.c */
u64 unibody_now(void);
u64 unibody_wall_clock(void);
u64 unibody_tsc(void);
u32 unibody_tsc_khz(void);
struct unibody_timer *unibody_timer_new(void *alarm);
void unibody_timer_arm(struct unibody_timer *timer, s64 deadline);
bool unibody_timer_try_cancel(struct unibody_timer *timer);
void unibody_timer_cancel(struct unibody_timer *timer);
void unibody_timer_free(struct unibody_timer *timer);

/* wait.c */
void unibody_wait_begin(struct rcuwait *place);
bool unibody_wait_prepare(void);
void unibody_wait(void);
void unibody_wait_end(struct rcuwait *place);
void unibody_wake(struct rcuwait *place);
bool unibody_is_wanted(void);
bool unibody_do_work(void);

/* user.c */
bool unibody_user_range(const void __user *address, size_t size);
size_t unibody_copy_from_user(void *to, const void __user *from, size_t size);
size_t unibody_copy_to_user(void __user *to, const void *from, size_t size);
int unibody_load_8(const u8 __user *from, u8 *value);
int unibody_load_16(const u16 __user *from, u16 *value);
int unibody_load_32(const u32 __user *from, u32 *value);
int unibody_load_64(const u64 __user *from, u64 *value);
int unibody_store_8(u8 __user *to, u8 value);
int unibody_store_16(u16 __user *to, u16 value);
int unibody_store_32(u32 __user *to, u32 value);
int unibody_store_64(u64 __user *to, u64 value);
int unibody_exchange_8(u8 __user *at, u8 *old, u8 new);
int unibody_exchange_16(u16 __user *at, u16 *old, u16 new);
int unibody_exchange_32(u32 __user *at, u32 *old, u32 new);
int unibody_exchange_64(u64 __user *at, u64 *old, u64 new);
bool unibody_has_exchange_128(void);
int unibody_exchange_128(u64 __user *at, u64 *old, const u64 *new);

/* event.c */
struct file *unibody_event_file(int descriptor);
struct eventfd_ctx *unibody_event_of(struct file *file);
void unibody_event_signal(struct eventfd_ctx *event);
void unibody_event_put(struct file *file, struct eventfd_ctx *event);
struct unibody_watch *unibody_watch_new(struct file *file, struct eventfd_ctx *event,
					void *watcher);
u64 unibody_watch_take_locked(struct unibody_watch *watch);
u64 unibody_watch_take(struct unibody_watch *watch);
void unibody_watch_free(struct unibody_watch *watch);

/* file.c */
struct file *unibody_file_get(int descriptor);
void unibody_file_put(struct file *file);
bool unibody_file_is_vfio_group(struct file *file);

/* pages.c */
void *unibody_pages_new(size_t size);
void unibody_pages_free(void *pages, size_t size);
u64 unibody_physical(void *address);
bool unibody_user_page(unsigned long address, bool write, bool at_once, u64 *physical);
size_t unibody_large_mapping(unsigned long address, u64 *physical);

/* processor.c */
u32 unibody_processors(void);
u32 unibody_stay(void);
void unibody_stay_end(void);
unsigned long unibody_interrupts_off(void);
void unibody_interrupts_restore(unsigned long flags);
bool unibody_is_online(u32 processor);
void unibody_interrupt(u32 processor);
void unibody_interrupt_and_wait(u32 processor);

/* fpu.c */
struct fpu_guest *unibody_fpu_new(void);
void unibody_fpu_free(struct fpu_guest *guest);
bool unibody_fpu_has_xsave(void);
void *unibody_fpu_area(struct fpu_guest *guest, u64 *components);
bool unibody_fpu_can_swap(void);
bool unibody_fpu_is_swapped(const struct fpu_guest *guest);
void unibody_fpu_swap(struct fpu_guest *guest, bool in);
void unibody_fpu_restore(void);
void unibody_fpu_save(void);

/* sleep.c */
struct mutex *unibody_mutex_new(void);
void unibody_mutex_free(struct mutex *mutex);
bool unibody_mutex_lock(struct mutex *mutex);
void unibody_mutex_wait(struct mutex *mutex);
void unibody_mutex_unlock(struct mutex *mutex);
void unibody_signals_block(u64 mask);
void unibody_signals_restore(void);

/* descriptor.c */
int unibody_descriptor_reserve(const char *name, bool positions, struct file **file);
void unibody_descriptor_install(int descriptor, struct file *file, void *object);
void unibody_descriptor_give_up(int descriptor, struct file *file);
const char *unibody_node_name(void);
int unibody_node_register(bool kvms);
void unibody_node_deregister(void);

/* mm.c */
struct unibody_notifier *unibody_notifier_new(void *pages);
void unibody_notifier_free(struct unibody_notifier *old);
bool unibody_notifier_is_currents(const struct unibody_notifier *notifier);

/* hotplug.c */
int unibody_processors_begin(void);
void unibody_processors_end(int state);
int unibody_power_begin(void);
void unibody_power_end(void);

/* trace.c */
void unibody_trace_entry(u32 vcpu, u64 rip);
void unibody_trace_exit(u32 vcpu, u64 rip, u64 reason, u64 info1, u64 info2);
void unibody_trace_inject(u32 vcpu, u8 what, u8 vector, bool has_error, u32 error);

/* selftest.c */
void unibody_stack_paint(void);
size_t unibody_stack_depth(void);
unsigned long unibody_map(size_t size, bool read, bool write);
unsigned long unibody_map_at(unsigned long at, size_t size, bool read, bool write);
void unibody_unmap(unsigned long start, size_t size);
int unibody_eventfd_new(void);
int unibody_other_descriptor(void);
void unibody_close(int descriptor);
u64 unibody_event_take(struct eventfd_ctx *event);
bool unibody_interrupts_are_off(void);
void unibody_pretend_signal(bool there);
const void *unibody_at_physical(u64 physical);
long unibody_ioctl_of(int descriptor, unsigned int number, unsigned long argument);
long unibody_read_of(int descriptor, char __user *to, size_t size, loff_t *offset);
bool unibody_may_pread(int descriptor);
unsigned long unibody_limit_descriptors(unsigned long most);
u64 unibody_blocked_signals(void);
unsigned long unibody_map_of(int descriptor, size_t size, unsigned long page, bool shared);

#endif

/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * Trace events: what a vCPU's engine does, as src/trace.rs tells it. They are
 * below /sys/kernel/tracing/events/unibody.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM unibody

#if !defined(UNIBODY_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define UNIBODY_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(unibody_entry,
	TP_PROTO(u32 vcpu, u64 rip),
	TP_ARGS(vcpu, rip),

	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u64, rip)
	),

	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->rip = rip;
	),

	TP_printk("vcpu %u, rip 0x%llx", __entry->vcpu, __entry->rip)
);

/* The reason, and what goes with it, are the processor's own numbers. */
TRACE_EVENT(unibody_exit,
	TP_PROTO(u32 vcpu, u64 rip, u64 reason, u64 info1, u64 info2),
	TP_ARGS(vcpu, rip, reason, info1, info2),

	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u64, rip)
		__field(u64, reason)
		__field(u64, info1)
		__field(u64, info2)
	),

	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->rip = rip;
		__entry->reason = reason;
		__entry->info1 = info1;
		__entry->info2 = info2;
	),

	TP_printk("vcpu %u, rip 0x%llx, reason 0x%llx, info1 0x%llx, info2 0x%llx",
		  __entry->vcpu, __entry->rip, __entry->reason, __entry->info1, __entry->info2)
);

TRACE_EVENT(unibody_inject,
	TP_PROTO(u32 vcpu, u8 what, u8 vector, bool has_error, u32 error),
	TP_ARGS(vcpu, what, vector, has_error, error),

	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u8, what)
		__field(u8, vector)
		__field(bool, has_error)
		__field(u32, error)
	),

	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->what = what;
		__entry->vector = vector;
		__entry->has_error = has_error;
		__entry->error = error;
	),

	/* The words are those of src/trace.rs. */
	TP_printk("vcpu %u, vector 0x%x, %s, error code 0x%x%s", __entry->vcpu, __entry->vector,
		  __print_symbolic(__entry->what,
				   { 0, "interrupt" }, { 1, "NMI" }, { 2, "exception" }),
		  __entry->error, __entry->has_error ? "" : " (none)")
);

#endif

/* This file once more, from Kbuild's directory. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>

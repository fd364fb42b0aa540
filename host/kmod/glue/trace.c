// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Trace events: src/trace.rs. While nobody asks for one there is a branch that
 * the kernel has patched away.
 */
#include "glue.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

void unibody_trace_entry(u32 vcpu, u64 rip)
{
	trace_unibody_entry(vcpu, rip);
}

void unibody_trace_exit(u32 vcpu, u64 rip, u64 reason, u64 info1, u64 info2)
{
	trace_unibody_exit(vcpu, rip, reason, info1, info2);
}

void unibody_trace_inject(u32 vcpu, u8 what, u8 vector, bool has_error, u32 error)
{
	trace_unibody_inject(vcpu, what, vector, has_error, error);
}

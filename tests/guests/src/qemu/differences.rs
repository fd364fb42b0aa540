//! Where QEMU's TCG (7.2) is known to deviate from what the bodies assert, and why: [`DIFFERENCES`].
//!
//! A body that is named there is run under QEMU like any other, and must fail as its entry says: see [`crate::differences`].
//! In each case the manuals say what the body asserts. What a program of level 3 can see in 64-bit mode, a
//! processor (Intel's) was asked as well, and it does what the bodies assert: error codes of INT n and of
//! modifications, a control register that does not exist, LOCK before MOV, INT1, alignment, RF of
//! faults, jumps and stack accesses to addresses that are not canonical.

use crate::differences::Difference;

/// What a body says that expects an exception, and sees none.
const NO_EXCEPTION: &str = "one exception, not Log { values: [], traps: [], partial: [] }";
/// The same, from other bodies.
const NO_FAULT: &str = "left: []\n right: [(13, 0)]";
/// The monitor can't go on with what QEMU let through.
const NO_STATE: &str = "QEMU's processor does not have this state";

/// All that are known.
pub const DIFFERENCES: &[&[Difference]] = &[&[
    Difference {
        reason: "Memory is accessed and code is fetched without a look at the segment's limit and type, \
                 or whether it is null; only loads of segment registers are checked.",
        bodies: &[
            ("compatibility::segments_have_limits_and_types", NO_FAULT),
            ("gates::the_target_has_to_lie_within_the_code_segment", NO_FAULT),
            ("protected16::addresses_of_32_bits_leave_the_segment", NO_FAULT),
            ("protected16::instructions_stay_within_64_kib", "right: ([(13, 0)], 65536)"),
            ("protected32::a_null_segment_cannot_be_used", NO_FAULT),
            ("protected32::code_has_a_limit", "right: [(13, 0)]"),
            ("protected32::port_strings_check_their_segments", "left: ([1, 2, 0, 0], [])"),
            ("protected32::segments_have_limits", NO_FAULT),
            ("protected32::segments_have_types", NO_FAULT),
            ("protected32::the_stack_has_a_limit", "left: []\n right: [(12, 0)]"),
            (
                "real_mode::a_stack_where_a_word_lies_across_the_end_shuts_down",
                "left: Out { port: 224",
            ),
            ("real_mode::instructions_end_within_the_code_segment", "right: [(13, 0)]"),
            (
                "real_mode::what_leaves_a_segment_is_general_protection_or_a_stack_fault",
                NO_EXCEPTION,
            ),
            (
                "task_switch::a_lost_stack_is_a_double_fault_with_a_stack_of_its_own",
                "left: []\n right: [8, 0]",
            ),
            ("v86::segments_are_of_64_kib", NO_EXCEPTION),
        ],
    },
    Difference {
        reason: "Alignment is not checked: CR0.AM and RFLAGS.AC have no effect.",
        bodies: &[
            ("exceptions::alignment_is_checked_in_user_mode_with_am_and_ac", NO_EXCEPTION),
            ("protected32::alignment_is_checked_at_level_3", "left: []\n right: [(17, 0)]"),
        ],
    },
    Difference {
        reason: "Addresses that are not canonical are #GP also where the access is the stack's.",
        bodies: &[
            (
                "double_faults::a_stack_fault_becomes_a_double_fault",
                "left: [(13, 0)]\n right: [(8, 0)]",
            ),
            (
                "exceptions::addresses_of_the_stack_that_are_not_canonical",
                "left: (13, 0)\n right: (12, 0)",
            ),
        ],
    },
    Difference {
        reason: "Targets of jumps and gates that are not canonical fault when they are fetched from, not \
                 in the instruction that goes there.",
        bodies: &[
            ("exceptions::jumps_to_addresses_that_are_not_canonical", "rip: 800000000000"),
            ("exceptions::the_target_of_a_gate_is_canonical", "rip: 800000000000"),
        ],
    },
    Difference {
        reason: "In long mode the error code about a gate has 16 times the vector in it instead of 8 times, \
                 and no EXT bit.",
        bodies: &[
            ("double_faults::the_error_code_says_that_it_was_an_event", "left: [(11, 98)]"),
            ("exceptions::error_codes_about_gates_name_them", "left: (13, 1026)"),
        ],
    },
    Difference {
        reason: "A modification of memory reads first, and its page fault is a read's.",
        bodies: &[("exceptions::a_modification_is_a_write", "left: [(14, 0)]")],
    },
    Difference {
        reason: "LOCK is not refused for all instructions that can't have it.",
        bodies: &[("exceptions::only_what_modifies_memory_can_be_locked", NO_EXCEPTION)],
    },
    Difference {
        reason: "The level is checked before the control register's existence.",
        bodies: &[(
            "exceptions::what_does_not_exist_is_an_invalid_opcode_at_every_level",
            "left: (13, 0)\n right: (6, 0)",
        )],
    },
    Difference {
        reason: "LTR takes a null selector.",
        bodies: &[("exceptions::a_task_is_not_null", NO_EXCEPTION)],
    },
    Difference {
        reason: "A code segment with L and D both set is taken for 64-bit code.",
        bodies: &[("exceptions::code_of_64_and_of_32_bits_does_not_exist", NO_EXCEPTION)],
    },
    Difference {
        reason: "Faults are pushed with RF as it is: it is not set.",
        bodies: &[
            ("exceptions::faults_are_pushed_with_the_resume_flag", "left: 0\n right: 0"),
            ("v86::faults_are_pushed_with_the_resume_flag", "left: 0\n right: 0"),
        ],
    },
    Difference {
        reason: "RF is cleared at the end of a translated block, not after each instruction.",
        bodies: &[(
            "debug::the_resume_flag_is_gone_after_an_instruction",
            "left: 65536\n right: 0",
        )],
    },
    Difference {
        reason: "A load of SS holds interrupts and single step, but not breakpoints.",
        bodies: &[
            ("debug::a_load_of_the_stack_segment_holds_data_breakpoints", "left: [(65543, 1)]"),
            (
                "debug::an_instruction_breakpoint_behind_a_load_of_the_stack_segment_is_lost",
                "the guest went astray: Some(Trap { vector: 1, error: 0, rip: 10007",
            ),
        ],
    },
    Difference {
        reason: "INT1 is left out of QEMU when it is built: it is #UD.",
        bodies: &[(
            "debug::what_a_load_of_the_stack_segment_holds_is_part_of_int1",
            "the guest went astray: Some(Trap { vector: 6, error: 0, rip: 10007",
        )],
    },
    Difference {
        reason: "After the last iteration of a repeated string RIP is at the instruction still.",
        bodies: &[(
            "debug::a_data_breakpoint_traps_after_the_last_iteration_of_a_string",
            "left: [(65546, 1)]",
        )],
    },
    Difference {
        reason: "A port breakpoint in a repeated string leaves the other iterations out.",
        bodies: &[(
            "debug::a_port_breakpoint_traps_after_each_iteration_of_a_string",
            "left: ([(65538, 1)], [1])",
        )],
    },
    Difference {
        reason: "An exception whose frame hits a data breakpoint is lost.",
        bodies: &[("debug::an_exceptions_frame_that_hits_a_breakpoint", "left: 65545")],
    },
    Difference {
        reason: "Single step and a data breakpoint are two exceptions, the second one in the first one's \
                 handler.",
        bodies: &[(
            "debug::single_step_and_a_data_breakpoint_are_one_exception",
            "left: [(131088, 16385), (65544, 0)]",
        )],
    },
    Difference {
        reason: "DR7.GD is not looked at.",
        bodies: &[("debug::general_detect_guards_the_debug_registers", "left: ([], [1])")],
    },
    Difference {
        reason: "CALL through a gate to conforming code makes CS's level the segment's.",
        bodies: &[("gates::conforming_code_keeps_the_level", "left: [4, 1179640]")],
    },
    Difference {
        reason: "MOV to CR0, CR3 and CR4 checks nothing; reserved bits end in a #VMEXIT, also where there \
                 is no guest.",
        bodies: &[
            ("modes::bits_of_cr0_are_checked", NO_FAULT),
            ("modes::long_mode_cannot_be_left_by_cr0", NO_FAULT),
            ("modes::reserved_bits_of_cr3_are_checked", NO_STATE),
            ("modes::reserved_bits_of_cr4_are_checked", NO_STATE),
            ("modes::the_depth_of_page_tables_stays_while_paging_is_on", "Shutdown; Log"),
        ],
    },
    Difference {
        reason: "Its processor has protection keys, which the policy for the other engines does not offer.",
        bodies: &[("modes::protection_keys_are_not_offered", NO_FAULT)],
    },
    Difference {
        reason: "Its processor has no INVPCID and no process contexts: bit 63 of CR3 is reserved.",
        bodies: &[
            ("page_tables::invpcid_shows_new_mappings", "left: (1, 1)\n right: (2, 1)"),
            ("page_tables::process_contexts_do_not_mix", NO_STATE),
        ],
    },
    Difference {
        reason: "SYSCALL clears the arithmetic flags.",
        bodies: &[("modes::syscall_keeps_flags_that_are_not_masked", "left: [12290]")],
    },
    Difference {
        reason: "Page faults for reserved bits do not say that the entry is present.",
        bodies: &[("page_tables::an_entry_with_reserved_bits_is_present", "left: [(14, 8)]")],
    },
    Difference {
        reason: "RFLAGS.AC lifts SMAP at levels 0 to 2 also for accesses to descriptor tables.",
        bodies: &[(
            "access_rights::smap_holds_for_the_processors_own_accesses_whatever_ac_says",
            "left: Out { port: 224",
        )],
    },
    Difference {
        reason: "SYSENTER is refused by vendor in 64-bit mode only, SYSCALL never.",
        bodies: &[("compatibility::system_calls_by_vendor", "left: [1, 8]\n right: []")],
    },
    Difference {
        reason: "LAR and LSL know all types of system segments in long mode.",
        bodies: &[("compatibility::types_of_16_bits_are_good_for_nothing", "left: [1, 1]")],
    },
    Difference {
        reason: "A task switch does not look at the trap flag of the TSS.",
        bodies: &[(
            "task_switch::the_trap_flag_of_a_tss",
            "Log { values: [], traps: [], partial: [] }",
        )],
    },
    Difference {
        reason: "A task of 16 bits keeps the upper half of the old one's EFLAGS, and with it VM.",
        bodies: &[("task_switch::virtual_8086_mode_as_a_task", "Shutdown; Log")],
    },
]];

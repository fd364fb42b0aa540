//! KVM's interface: [`open`] is Linux's own KVM, [`open_module`] the project's module; with its own chips or with all but the local
//! APICs in this process ([`Split`]). And where each is known to deviate from what the bodies assert: [`DIFFERENCES`],
//! [`MODULE_DIFFERENCES`].
//!
//! They are run in the nest: Linux 6.1's `kvm_amd`, and `unibody.ko`, on the processor of QEMU 7.2. A /dev/kvm that is elsewhere need not be the real
//! thing, and the tests' configuration leaves them out.

use hv::host::Device;
use hv::kvm::Kvm;
use hv::{Error, Hypervisor, Irqchip, VmConfig};

use crate::differences::Difference;

/// The device that the environment names, or `/dev/kvm`.
///
/// # Panics
/// If it can't be used.
#[must_use]
pub fn open() -> Kvm {
    let device = std::env::var_os("UNIBODY_KVM").unwrap_or_else(|| "/dev/kvm".into());
    Kvm::open(device.as_ref()).unwrap_or_else(|error| panic!("{error}"))
}

/// The module.
///
/// # Panics
/// If it can't be used.
#[must_use]
pub fn open_module() -> Kvm {
    let device = Device::Unibody;
    let opened = Kvm::open(device.path().as_ref());
    opened.unwrap_or_else(|error| panic!("{error}")).named(device.name())
}

/// KVM, of which the local APICs are all that a machine has.
pub struct Split(pub Kvm);

impl Hypervisor for Split {
    type Vm = <Kvm as Hypervisor>::Vm;

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn create_vm(&self, config: VmConfig) -> Result<Self::Vm, Error> {
        self.0.create_vm(VmConfig { irqchip: Irqchip::Split, ..config })
    }
}

/// All that are known of Linux's with its own chips.
pub const DIFFERENCES: &[&[Difference]] = &[LINUX, CHIPS, INTERFACE, PROCESSOR];

/// All that are known of it without them.
pub const SPLIT_DIFFERENCES: &[&[Difference]] = &[LINUX, INTERFACE, PROCESSOR];

/// All that are known of the module, with its own chips and without them.
pub const MODULE_DIFFERENCES: &[&[Difference]] = &[INTERFACE, PROCESSOR];

/// Linux's KVM, but for its chips.
const LINUX: &[Difference] = &[
    Difference {
        reason: "A string from a port is read before it is known that it can be stored.",
        bodies: &[(
            "devices::a_string_that_faults_reads_no_port",
            "In { port: 208, size: 1, count: 1 }",
        )],
    },
    Difference {
        reason: "A string that runs backwards is an exit for each element.",
        bodies: &[(
            "devices::strings_run_backwards_with_the_direction_flag",
            "left: [Out { port: 208, size: 1, data: Data { bytes: [34, 0, 0,",
        )],
    },
    Difference {
        reason: "CR4.VME can be set whether or not CPUID offers it.",
        bodies: &[("features::bits_of_cr4_come_with_their_feature", "bit 0")],
    },
    Difference {
        reason: "What is read of a disabled APIC's page is ones, and nobody is asked.",
        bodies: &[(
            "lapic::a_disabled_apic_is_gone_from_cpuid_and_its_page",
            "left: Out { port: 224",
        )],
    },
    Difference {
        reason: "A timer that expires while it is masked is pending, and interrupts when it no longer is.",
        bodies: &[("lapic::a_masked_timer_counts_but_does_not_interrupt", "[70]")],
    },
    Difference {
        reason: "A vector below 16 is no error of the local APIC's.",
        bodies: &[("lapic::an_illegal_vector_is_an_error", "left: [0, 0]")],
    },
    Difference {
        reason: "Registers of x2APIC mode that there are not read as 0.",
        bodies: &[(
            "lapic::what_is_no_register_of_x2apic_mode_is_general_protection",
            "failed: reserved",
        )],
    },
    Difference {
        reason: "The processor of the nest lets LSTAR be set to what is not canonical, for KVM does not intercept it.",
        bodies: &[("features::msrs_refuse_what_they_cannot_hold", "0xc0000082 0x1000000000000000")],
    },
    Difference {
        reason: "The processor of the nest lets CR8 be set to more than 15.",
        bodies: &[("interrupts::cr8_takes_four_bits", "left: [(0, 0)]")],
    },
    Difference {
        reason: "While a debugger steps, TF shows in what PUSHF stores.",
        bodies: &[("steps::a_step_does_not_show_in_what_the_guest_saves", "left: ([258], [])")],
    },
    Difference {
        reason: "The handler of a fault, and of INT n, runs within the step, and TF is in its frame.",
        bodies: &[
            ("steps::a_step_over_a_fault_ends_in_its_handler", "right: 131168"),
            ("steps::a_step_into_a_handler_leaves_no_trap_flag_behind", "right: 132096"),
        ],
    },
    Difference {
        reason: "While a debugger steps, all debug exceptions are the debugger's.",
        bodies: &[(
            "steps::the_guests_own_steps_are_not_lost_in_a_debuggers",
            "left: [65537, 65538]",
        )],
    },
    Difference {
        reason: "A string that is emulated finds out that it is done in a step of its own.",
        bodies: &[
            ("steps::a_step_is_an_iteration_of_a_string_to_a_device", "left: 65536\n right: 65538"),
            ("steps::a_step_is_an_iteration_of_a_string_to_a_port", "left: 65536\n right: 65538"),
        ],
    },
];

/// What KVM does, and whoever has its interface does like it.
const INTERFACE: &[Difference] = &[Difference {
    reason: "MONITOR and MWAIT are executed, as nothing, whether or not CPUID offers them.",
    bodies: &[(
        "features::what_cpuid_offers_runs_and_what_it_does_not_is_an_invalid_opcode",
        "failed: monitor",
    )],
}];

/// The processor of the nest, whatever the hypervisor.
const PROCESSOR: &[Difference] = &[
    Difference {
        reason: "The processor of the nest has no PCID.",
        bodies: &[("features::leaves_agree_with_each_other", "left: 18874368\n right: 19005440")],
    },
    Difference {
        reason: "On the processor of the nest a load of SS does not hold back an interrupt that a hypervisor injects.",
        bodies: &[(
            "interrupts::a_load_of_ss_holds_interrupts_back_for_one_instruction",
            "left: [",
        )],
    },
    Difference {
        reason: "On the processor of the nest an intercept of #BP does not stop INT3.",
        bodies: &[
            ("breakpoints::a_software_breakpoint_comes_out_where_it_is", "SoftwareBreakpoint"),
            (
                "breakpoints::a_software_breakpoint_that_is_the_guests_is_given_back",
                "SoftwareBreakpoint",
            ),
            ("breakpoints::a_step_ends_at_a_software_breakpoint_once", "SoftwareBreakpoint"),
        ],
    },
    Difference {
        reason: "The processor of the nest does not look for the breakpoints that VMRUN loads.",
        bodies: &[
            (
                "breakpoints::an_execute_breakpoint_comes_out_before_the_instruction",
                "left: Out { port: 224",
            ),
            (
                "breakpoints::data_breakpoints_come_out_after_the_instruction",
                "left: Out { port: 224",
            ),
            ("breakpoints::a_step_meets_breakpoints", "breakpoints: 0 }, address: 65544"),
            (
                "breakpoints::the_guests_breakpoints_are_active_when_the_debuggers_are_gone",
                "left: []\n right: [1]",
            ),
        ],
    },
    Difference {
        reason: "On the processor of the nest STI holds single step back as well.",
        bodies: &[("steps::a_step_ends_in_the_shadow_of_sti", "left: 65538\n right: 65537")],
    },
];

/// The chips of Linux's KVM.
const CHIPS: &[Difference] = &[
    Difference {
        reason: "What the 8259s ask for while LINT0 is masked is not delivered when it no longer is, until they are asked again.",
        bodies: &[(
            "legacy_chips::a_masked_lint0_keeps_the_8259s_out",
            "left: [0]\n right: [0, 37]",
        )],
    },
    Difference {
        reason: "A poll of the 8259 does not say that there is a request (bit 7).",
        bodies: &[("legacy_chips::a_poll_gives_the_request", "left: (5, 0)")],
    },
    Difference {
        reason: "The gate of the 8254's counter 2 does not stop it.",
        bodies: &[("legacy_chips::the_gate_of_counter_2_stops_it", "left: 32")],
    },
];

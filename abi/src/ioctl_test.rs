//! The numbers against Linux's: what `<linux/kvm.h>` of Linux 6.1 evaluates to on x86-64.

use crate::ioctl as number;

#[test]
fn numbers_are_linux_s() {
    for (name, ours, linux) in NUMBERS {
        assert_eq!(ours, linux, "KVM_{name}: {ours:#x}, not {linux:#x}");
    }
}

#[test]
fn a_number_tells_its_argument() {
    assert_eq!(number::argument_size(number::GET_XSAVE), 4096);
    assert_eq!(number::direction(number::GET_XSAVE), number::READ);
    assert_eq!(number::direction(number::SET_REGS), number::WRITE);
    assert_eq!(number::direction(number::RUN), 0);
}

const NUMBERS: &[(&str, u32, u32)] = &[
    ("GET_API_VERSION", number::GET_API_VERSION, 0x0000ae00),
    ("CREATE_VM", number::CREATE_VM, 0x0000ae01),
    ("GET_MSR_INDEX_LIST", number::GET_MSR_INDEX_LIST, 0xc004ae02),
    ("CHECK_EXTENSION", number::CHECK_EXTENSION, 0x0000ae03),
    ("GET_VCPU_MMAP_SIZE", number::GET_VCPU_MMAP_SIZE, 0x0000ae04),
    ("GET_SUPPORTED_CPUID", number::GET_SUPPORTED_CPUID, 0xc008ae05),
    ("GET_EMULATED_CPUID", number::GET_EMULATED_CPUID, 0xc008ae09),
    ("GET_MSR_FEATURE_INDEX_LIST", number::GET_MSR_FEATURE_INDEX_LIST, 0xc004ae0a),
    ("GET_SUPPORTED_HV_CPUID", number::GET_SUPPORTED_HV_CPUID, 0xc008aec1),
    ("X86_GET_MCE_CAP_SUPPORTED", number::X86_GET_MCE_CAP_SUPPORTED, 0x8008ae9d),
    ("CREATE_VCPU", number::CREATE_VCPU, 0x0000ae41),
    ("GET_DIRTY_LOG", number::GET_DIRTY_LOG, 0x4010ae42),
    ("SET_NR_MMU_PAGES", number::SET_NR_MMU_PAGES, 0x0000ae44),
    ("GET_NR_MMU_PAGES", number::GET_NR_MMU_PAGES, 0x0000ae45),
    ("SET_USER_MEMORY_REGION", number::SET_USER_MEMORY_REGION, 0x4020ae46),
    ("SET_TSS_ADDR", number::SET_TSS_ADDR, 0x0000ae47),
    ("SET_IDENTITY_MAP_ADDR", number::SET_IDENTITY_MAP_ADDR, 0x4008ae48),
    ("SET_USER_MEMORY_REGION2", number::SET_USER_MEMORY_REGION2, 0x40a0ae49),
    ("CREATE_IRQCHIP", number::CREATE_IRQCHIP, 0x0000ae60),
    ("IRQ_LINE", number::IRQ_LINE, 0x4008ae61),
    ("GET_IRQCHIP", number::GET_IRQCHIP, 0xc208ae62),
    ("SET_IRQCHIP", number::SET_IRQCHIP, 0x8208ae63),
    ("IRQ_LINE_STATUS", number::IRQ_LINE_STATUS, 0xc008ae67),
    ("REGISTER_COALESCED_MMIO", number::REGISTER_COALESCED_MMIO, 0x4010ae67),
    ("UNREGISTER_COALESCED_MMIO", number::UNREGISTER_COALESCED_MMIO, 0x4010ae68),
    ("SET_GSI_ROUTING", number::SET_GSI_ROUTING, 0x4008ae6a),
    ("REINJECT_CONTROL", number::REINJECT_CONTROL, 0x0000ae71),
    ("IRQFD", number::IRQFD, 0x4020ae76),
    ("CREATE_PIT2", number::CREATE_PIT2, 0x4040ae77),
    ("SET_BOOT_CPU_ID", number::SET_BOOT_CPU_ID, 0x0000ae78),
    ("IOEVENTFD", number::IOEVENTFD, 0x4040ae79),
    ("SET_CLOCK", number::SET_CLOCK, 0x4030ae7b),
    ("GET_CLOCK", number::GET_CLOCK, 0x8030ae7c),
    ("GET_PIT2", number::GET_PIT2, 0x8070ae9f),
    ("SET_PIT2", number::SET_PIT2, 0x4070aea0),
    ("SIGNAL_MSI", number::SIGNAL_MSI, 0x4020aea5),
    ("CLEAR_DIRTY_LOG", number::CLEAR_DIRTY_LOG, 0xc018aec0),
    ("X86_SET_MSR_FILTER", number::X86_SET_MSR_FILTER, 0x4188aec6),
    ("RESET_DIRTY_RINGS", number::RESET_DIRTY_RINGS, 0x0000aec7),
    ("CREATE_DEVICE", number::CREATE_DEVICE, 0xc00caee0),
    ("RUN", number::RUN, 0x0000ae80),
    ("GET_REGS", number::GET_REGS, 0x8090ae81),
    ("SET_REGS", number::SET_REGS, 0x4090ae82),
    ("GET_SREGS", number::GET_SREGS, 0x8138ae83),
    ("SET_SREGS", number::SET_SREGS, 0x4138ae84),
    ("TRANSLATE", number::TRANSLATE, 0xc018ae85),
    ("INTERRUPT", number::INTERRUPT, 0x4004ae86),
    ("GET_MSRS", number::GET_MSRS, 0xc008ae88),
    ("SET_MSRS", number::SET_MSRS, 0x4008ae89),
    ("SET_SIGNAL_MASK", number::SET_SIGNAL_MASK, 0x4004ae8b),
    ("GET_FPU", number::GET_FPU, 0x81a0ae8c),
    ("SET_FPU", number::SET_FPU, 0x41a0ae8d),
    ("GET_LAPIC", number::GET_LAPIC, 0x8400ae8e),
    ("SET_LAPIC", number::SET_LAPIC, 0x4400ae8f),
    ("SET_CPUID2", number::SET_CPUID2, 0x4008ae90),
    ("GET_CPUID2", number::GET_CPUID2, 0xc008ae91),
    ("TPR_ACCESS_REPORTING", number::TPR_ACCESS_REPORTING, 0xc028ae92),
    ("SET_VAPIC_ADDR", number::SET_VAPIC_ADDR, 0x4008ae93),
    ("GET_MP_STATE", number::GET_MP_STATE, 0x8004ae98),
    ("SET_MP_STATE", number::SET_MP_STATE, 0x4004ae99),
    ("NMI", number::NMI, 0x0000ae9a),
    ("SET_GUEST_DEBUG", number::SET_GUEST_DEBUG, 0x4048ae9b),
    ("X86_SETUP_MCE", number::X86_SETUP_MCE, 0x4008ae9c),
    ("GET_VCPU_EVENTS", number::GET_VCPU_EVENTS, 0x8040ae9f),
    ("SET_VCPU_EVENTS", number::SET_VCPU_EVENTS, 0x4040aea0),
    ("GET_DEBUGREGS", number::GET_DEBUGREGS, 0x8080aea1),
    ("SET_DEBUGREGS", number::SET_DEBUGREGS, 0x4080aea2),
    ("SET_TSC_KHZ", number::SET_TSC_KHZ, 0x0000aea2),
    ("GET_TSC_KHZ", number::GET_TSC_KHZ, 0x0000aea3),
    ("ENABLE_CAP", number::ENABLE_CAP, 0x4068aea3),
    ("GET_XSAVE", number::GET_XSAVE, 0x9000aea4),
    ("SET_XSAVE", number::SET_XSAVE, 0x5000aea5),
    ("GET_XCRS", number::GET_XCRS, 0x8188aea6),
    ("SET_XCRS", number::SET_XCRS, 0x4188aea7),
    ("KVMCLOCK_CTRL", number::KVMCLOCK_CTRL, 0x0000aead),
    ("SMI", number::SMI, 0x0000aeb7),
    ("GET_NESTED_STATE", number::GET_NESTED_STATE, 0xc080aebe),
    ("SET_NESTED_STATE", number::SET_NESTED_STATE, 0x4080aebf),
    ("GET_SREGS2", number::GET_SREGS2, 0x8140aecc),
    ("SET_SREGS2", number::SET_SREGS2, 0x4140aecd),
    ("GET_XSAVE2", number::GET_XSAVE2, 0x9000aecf),
    ("SET_DEVICE_ATTR", number::SET_DEVICE_ATTR, 0x4018aee1),
    ("GET_DEVICE_ATTR", number::GET_DEVICE_ATTR, 0x4018aee2),
    ("HAS_DEVICE_ATTR", number::HAS_DEVICE_ATTR, 0x4018aee3),
    ("GET_STATS_FD", number::GET_STATS_FD, 0x0000aece),
];

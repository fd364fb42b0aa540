//! Why KVM does not go on with a vCPU: [`Stuck`], in words.

use std::fmt;

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_DELIVERY_EV,
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_run,
};

/// `internal` of `struct kvm_run`.
type Internal = kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_13;

/// An exit after which there is no way on. See: Linux, Documentation/virt/kvm/api.rst, 5.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stuck {
    /// `KVM_EXIT_INTERNAL_ERROR`: KVM can't do what it has to.
    Internal(Internal),
    /// `KVM_EXIT_FAIL_ENTRY`: the processor does not enter the guest.
    Entry { reason: u64 },
    /// An exit that this side does not know.
    Unknown { number: u32 },
}

impl Stuck {
    /// Of an exit that is none of those by which a guest goes on.
    pub fn of(run: &kvm_run) -> Self {
        let details = &run.__bindgen_anon_1;
        match run.exit_reason {
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: the exit is one of which the union has `internal`; any bits are numbers.
                Self::Internal(unsafe { details.internal })
            }
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: the exit is one of which the union has `fail_entry`; any bits are numbers.
                Self::Entry { reason: unsafe { details.fail_entry.hardware_entry_failure_reason } }
            }
            number => Self::Unknown { number },
        }
    }

    /// It is an instruction, which KVM lacks or can't read.
    pub fn is_instruction(&self) -> bool {
        matches!(self, Self::Internal(internal) if internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal(Internal { suberror, ndata, data }) => {
                write!(f, "KVM's internal error {suberror}{}", meaning(*suberror))?;
                let data = &data[..data.len().min(*ndata as usize)];
                data.iter().enumerate().try_for_each(|(n, word)| {
                    write!(f, "{}{word:#x}", if n == 0 { "; its data: " } else { " " })
                })
            }
            Self::Entry { reason } => write!(
                f,
                "the processor refuses to enter the guest, with reason {reason:#x}{}",
                refusal(*reason)
            ),
            Self::Unknown { number } => write!(f, "KVM's exit {number} is not known"),
        }
    }
}

/// See: Linux, include/uapi/linux/kvm.h.
fn meaning(suberror: u32) -> &'static str {
    match suberror {
        KVM_INTERNAL_ERROR_EMULATION => ": it cannot execute an instruction",
        KVM_INTERNAL_ERROR_SIMUL_EX => ": two exceptions came at once",
        KVM_INTERNAL_ERROR_DELIVERY_EV => ": it cannot deliver an event",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
            ": the processor came out of the guest for a reason that it does not know"
        }
        _ => "",
    }
}

/// What a reason means where AMD and Intel say so. AMD's is -1, of which Linux gives 32 bits or 64. Such of Intel's have bit 31 set; without that it is the number of a VM-instruction
/// error. See: AMD APM vol. 2, appendix C, VMEXIT_INVALID; Intel SDM vol. 3, 28.8, 28.9 and 32.4.
fn refusal(reason: u64) -> &'static str {
    match reason {
        u64::MAX | 0xffff_ffff | 0x8000_0021 => ": the guest's registers are no valid state",
        0x8000_0022 => ": an MSR of the guest's does not take its value",
        0x8000_0029 => ": the machine has reported a hardware error",
        7 => ": KVM has asked for what this processor does not have",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn internal(suberror: u32, ndata: u32, words: &[u64]) -> Stuck {
        let mut run = kvm_run { exit_reason: KVM_EXIT_INTERNAL_ERROR, ..kvm_run::default() };
        let mut data = [0; 16];
        data[..words.len()].copy_from_slice(words);
        run.__bindgen_anon_1.internal = Internal { suberror, ndata, data };
        Stuck::of(&run)
    }

    #[test]
    fn an_internal_error_says_which_and_its_data() {
        let text = |suberror, data: &[u64]| internal(suberror, data.len() as u32, data).to_string();
        assert_eq!(
            text(3, &[0x8000_0b0e, 0x31]),
            "KVM's internal error 3: it cannot deliver an event; its data: 0x80000b0e 0x31"
        );
        assert_eq!(text(2, &[]), "KVM's internal error 2: two exceptions came at once");
        assert!(text(4, &[0x404]).contains("4: the processor came out"));
        assert_eq!(text(77, &[1]), "KVM's internal error 77; its data: 0x1");
    }

    /// More data is announced than there is room for.
    #[test]
    fn no_more_is_read_than_there_is() {
        let text = internal(3, u32::MAX, &[7]).to_string();
        assert_eq!(text.split(' ').filter(|word| *word == "0x0").count(), 15, "{text}");
    }

    #[test]
    fn only_one_of_them_is_about_an_instruction() {
        assert!(internal(1, 0, &[]).is_instruction());
        assert!(!internal(3, 0, &[]).is_instruction());
        assert!(!Stuck::Entry { reason: 1 }.is_instruction());
    }

    #[test]
    fn a_failed_entry_says_its_reason() {
        let text = |hardware_entry_failure_reason| {
            let mut run = kvm_run { exit_reason: KVM_EXIT_FAIL_ENTRY, ..kvm_run::default() };
            run.__bindgen_anon_1.fail_entry.hardware_entry_failure_reason =
                hardware_entry_failure_reason;
            Stuck::of(&run).to_string()
        };
        let invalid = "the guest's registers are no valid state";
        assert!(text(u64::MAX).ends_with(&format!("reason 0xffffffffffffffff: {invalid}")));
        assert!(text(0xffff_ffff).ends_with(&format!("reason 0xffffffff: {invalid}")));
        assert!(text(0x8000_0021).ends_with(&format!("reason 0x80000021: {invalid}")));
        assert!(text(0x8000_0022).contains("MSR") && text(0x8000_0029).contains("hardware error"));
        assert!(text(7).contains("does not have"));
        assert!(text(0x1234).ends_with("with reason 0x1234"));
    }

    #[test]
    fn an_exit_that_is_not_known_is_told_by_its_number() {
        let run = kvm_run { exit_reason: 99, ..kvm_run::default() };
        assert_eq!(Stuck::of(&run).to_string(), "KVM's exit 99 is not known");
    }
}

//! Test bodies of [`crate::exception`].

use selftest::{cases, check_eq};

use crate::exception::{DB, DE, DF, Exception, GP, MF, NP, PF, SS, TS, UD};

cases! {
    /// See: AMD APM vol. 2, table 8-5.
    fn the_double_fault_rule_is_the_manuals() {
        let contributory = [DE, TS, NP, SS, GP];
        let double = Some(Exception::with_error(DF, 0));
        for first in contributory {
            for second in contributory {
                check_eq!(Exception::plain(second).during(first), double);
            }
            let fault = Exception::pf(8, 0);
            check_eq!(fault.during(first), Some(fault), "page fault after {first}");
            check_eq!(Exception::plain(first).during(PF), double);
            check_eq!(Exception::plain(first).during(DF), None);
        }
        check_eq!(Exception::pf(8, 0).during(PF), double);
        check_eq!(Exception::pf(8, 0).during(DF), None);
        for benign in [DB, UD, MF] {
            let exception = Exception::plain(benign);
            for first in [DE, PF, DF, UD] {
                check_eq!(exception.during(first), Some(exception));
            }
            check_eq!(Exception::gp(0).during(benign), Some(Exception::gp(0)));
        }
    }
}

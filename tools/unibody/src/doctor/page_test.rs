use super::super::report::report_test::report;
use super::*;

const PAGE: &str = "\
unibody 1.2.3

Processor
  vendor       AuthenticAMD
  model        AMD EPYC 7B13
  level        x86-64-v3; a guest has x86-64-v2
  a guest has  extension00 extension01 extension02 extension03 extension04
               extension05 extension06
  and lacks    avx avx2

Engines
  soft         ready
               (the software CPU)
               right: ring 0, paging, interrupt, port I/O
               wrong: cmpxchg16b: it shut down
               not come to: loop
               speed: 412 million instructions a second; tried in 9.2 ms
  kvm          present, but not permitted
               (Linux's /dev/kvm)
               to use it: sudo usermod -aG kvm $USER, and log in again
  choice       soft: it needs nothing

Module
  state        not loaded
  processor    AuthenticAMD with SVM
  file         unknown to modprobe
               to do: sudo depmod -a

Machine
  memory       4.00 GiB, 1.50 GiB of it available
  cores        2

Distribution
  name         Debian GNU/Linux 12 (bookworm)
  pull         works: there is apt-get

Cache
  folder       /home/me/.cache/unibody
  kernel       6.1.0-56-cloud-amd64
  size         64.00 MiB
";

#[test]
fn a_page_is_aligned() {
    assert_eq!(render(&report()), PAGE);
}

#[test]
fn what_is_missing_is_said() {
    let mut report = report();
    report.processor = None;
    report.engines.clear();
    report.choice = None;
    report.memory = None;
    report.distribution.name = None;
    report.distribution.has_apt = false;
    report.cache.folder = None;
    report.cache.kernel = None;
    report.cache.size = 0;
    let page = render(&report);
    for line in [
        "               no guest could be made to look at",
        "  choice       none: nothing here can run a guest",
        "  memory       unknown",
        "  name         unknown",
        "  pull         does not work: there is no apt-get. Use --kernel and --initrd",
        "  folder       none: neither XDG_CACHE_HOME nor HOME is set to an absolute path",
        "  kernel       nothing is pulled yet; unibody pull gets it",
        "  size         0 B",
    ] {
        assert!(page.lines().any(|found| found == line), "'{line}' is not in:\n{page}");
    }
}

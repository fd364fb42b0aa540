//! What `--verbose` says of a guest that is at its end: [`counts`], [`vmcoreinfo`].

use hv::Counts;

use crate::error::say;

/// Says what was done to run the guest. `benches` reads it.
pub(crate) fn counts(counts: &Counts) {
    let Counts { instructions, translated, translation_time, code_size } = counts;
    say(&format!("unibody: the guest executed {instructions} instructions"));
    if *translated > 0 {
        let time = translation_time.as_secs_f64();
        say(&format!(
            "unibody: {translated} instructions were translated in {time:.6} seconds, \
             the code takes {code_size} bytes"
        ));
    }
}

/// Says what a dump of the guest's memory would be read by: which kernel, and where it was.
pub(crate) fn vmcoreinfo(text: &str) {
    let of_kernel = ["OSRELEASE=", "BUILD-ID=", "KERNELOFFSET="];
    let lines = text.lines().filter(|line| of_kernel.iter().any(|name| line.starts_with(name)));
    let told: Vec<&str> = lines.collect();
    say(&format!("unibody: vmcoreinfo: {} lines, {}", text.lines().count(), told.join(", ")));
}

//! Floating point, which the kernel's half must not use.
//!
//! The target has no vector registers, so the compiler turns an operation on
//! an `f32` or `f64` into a call of its run-time library. If such a function
//! is reachable, some code in the kernel computes with floating point.

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSymbol};

/// What those functions do, as their names begin: `__muldf3`, `__floatundisf`.
/// See: LLVM, compiler-rt/lib/builtins/README.txt
const OPERATIONS: &[&str] = &[
    "add", "sub", "mul", "div", "neg", "pow", "cmp", "unord", "eq", "ne", "lt", "le", "gt", "ge",
    "fix", "float", "extend", "trunc",
];

/// The types in their names: half, single, double, quadruple precision.
const TYPES: &[&str] = &["hf", "sf", "df", "tf"];

/// Fails if an object computes with floating point.
pub fn check(object: &[u8]) -> Result<()> {
    let object = object::File::parse(object).context("the linked object is no ELF file")?;
    let found: Vec<&str> = object
        .symbols()
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| is_float(name))
        .collect();
    if !found.is_empty() {
        bail!("what compiles into the kernel uses floating point: it calls {}", found.join(", "));
    }
    Ok(())
}

/// Whether a name is that of a floating-point function of the compiler's library.
fn is_float(name: &str) -> bool {
    let Some(name) = name.strip_prefix("__") else {
        return false;
    };
    OPERATIONS.iter().any(|operation| {
        name.strip_prefix(operation)
            .is_some_and(|rest| rest.len() <= 8 && TYPES.iter().any(|kind| rest.contains(kind)))
    })
}

#[cfg(test)]
mod tests {
    use super::is_float;

    #[test]
    fn float_functions_are_known_by_name() {
        for name in ["__adddf3", "__mulsf3", "__floatundisf", "__fixunsdfti", "__extendsfdf2"] {
            assert!(is_float(name), "{name}");
        }
        for name in ["__udivti3", "__multi3", "__ashlti3", "__x86_return_thunk", "memcpy"] {
            assert!(!is_float(name), "{name}");
        }
    }
}

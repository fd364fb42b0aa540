//! Shapes of what came with extensions, behind 0F 38 and 0F 3A: MOVBE, CRC32, ADX, BMI1 and BMI2.
//!
//! Where the host has not the extension there is no shape.

use super::{Encoding, Map, Role, Shape, Vex, shape};

impl Shape {
    /// MOVBE, CRC32, ADCX and ADOX.
    pub(super) fn of_extension(encoding: &Encoding<'_>) -> Option<Self> {
        use Role::{Both, Read, Write};
        if encoding.map != Map::Three38 || encoding.lock {
            return None;
        }
        let swaps = encoding.rm().is_none() && is_x86_feature_detected!("movbe");
        let sums = is_x86_feature_detected!("sse4.2");
        let adds = is_x86_feature_detected!("adx");
        Some(match (encoding.opcode, encoding.repeat, encoding.operand_size) {
            (0xf0, None, _) if swaps => shape(Write, Read, false),
            (0xf1, None, _) if swaps => shape(Read, Write, false),
            (opcode @ (0xf0 | 0xf1), Some(0xf2), _) if sums => {
                Shape { byte_rm: opcode == 0xf0, ..shape(Both, Read, false) }
            }
            (0xf6, None, true) | (0xf6, Some(0xf3), false) if adds => shape(Both, Read, false),
            _ => return None,
        })
    }

    /// BMI1 and BMI2, but for TZCNT, which has no VEX prefix. All of them read `rm`.
    pub(super) fn of_vex(encoding: &Encoding<'_>, vex: Vex) -> Option<Self> {
        use Role::{None as No, Read, Write};
        let has = [is_x86_feature_detected!("bmi1"), is_x86_feature_detected!("bmi2")];
        let [bmi1, bmi2] = has.map(|has| has && !vex.length);
        let prefix = encoding.repeat.or(encoding.operand_size.then_some(0x66));
        let group = encoding.next >> 3 & 7;
        let (reg, vvvv) = match (encoding.map, encoding.opcode, prefix) {
            // ANDN.
            (Map::Three38, 0xf2, None) if bmi1 => (Write, Read),
            // BLSR, BLSMSK, BLSI.
            (Map::Three38, 0xf3, None) if bmi1 && matches!(group, 1..=3) => (No, Write),
            // BZHI, PEXT, PDEP.
            (Map::Three38, 0xf5, None | Some(0xf3 | 0xf2)) if bmi2 => (Write, Read),
            // MULX.
            (Map::Three38, 0xf6, Some(0xf2)) if bmi2 => (Write, Write),
            // BEXTR.
            (Map::Three38, 0xf7, None) if bmi1 => (Write, Read),
            // SHLX, SARX, SHRX.
            (Map::Three38, 0xf7, Some(_)) if bmi2 => (Write, Read),
            // RORX.
            (Map::Three3a, 0xf0, Some(0xf2)) if bmi2 => (Write, No),
            _ => return None,
        };
        Some(Shape { vvvv, ..shape(reg, Read, false) })
    }
}

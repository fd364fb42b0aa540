use std::sync::Mutex;

use super::super::config::command;
use super::*;

const ECAM: u64 = 0xe000_0000;

/// A function whose memory is bytes.
struct Bytes {
    config: Mutex<Config>,
    memory: Mutex<[u8; 0x1000]>,
}

impl Bytes {
    fn new(device: u16) -> Arc<Self> {
        let identity = Identity { vendor: 0x1234, device, ..BRIDGE };
        let config = Mutex::new(Config::new(&identity, 0x1000));
        Arc::new(Self { config, memory: Mutex::new([0; 0x1000]) })
    }
}

impl Function for Bytes {
    fn read_config(&self, offset: u8, data: &mut [u8]) {
        self.config.lock().unwrap().read(offset, data);
    }
    fn write_config(&self, offset: u8, data: &[u8]) {
        self.config.lock().unwrap().write(offset, data);
    }
    fn window(&self) -> Option<Range<u64>> {
        self.config.lock().unwrap().window()
    }
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.copy_from_slice(&self.memory.lock().unwrap()[offset as usize..][..data.len()]);
    }
    fn write(&self, offset: u64, data: &[u8]) {
        self.memory.lock().unwrap()[offset as usize..][..data.len()].copy_from_slice(data);
    }
}

fn root() -> Arc<Root> {
    Arc::new(Root::new(ECAM, vec![Bytes::new(0x11), Bytes::new(0x22)]))
}

fn read(root: &Root, gpa: u64) -> u32 {
    let mut data = [0xff; 4];
    root.access(gpa, Access::Read(&mut data));
    u32::from_le_bytes(data)
}

fn write(root: &Root, gpa: u64, value: u32) {
    root.access(gpa, Access::Write(&value.to_le_bytes()));
}

fn place(root: &Root, device: u64, address: u32) {
    let config = ECAM + (device << 15);
    write(root, config + u64::from(register::BAR0), address);
    write(root, config + u64::from(register::COMMAND), command::MEMORY.into());
}

#[test]
fn functions_are_found_by_memory_and_by_ports() {
    let root = root();
    let ports = Ports::new(Arc::clone(&root));
    let (address_port, data_port) = (AddressPort(Arc::clone(&ports)), DataPort(ports));
    let expected = [0x29c0_8086, 0x0011_1234, 0x0022_1234, u32::MAX];
    for (device, expected) in (0_u32..).zip(expected) {
        assert_eq!(read(&root, ECAM + (u64::from(device) << 15)), expected);
        address_port.write(0, &(ENABLED | device << 11).to_le_bytes());
        let mut data = [0xff; 4];
        data_port.read(0, &mut data);
        assert_eq!(u32::from_le_bytes(data), expected);
        let mut half = [0xff; 2];
        data_port.read(2, &mut half);
        assert_eq!(u16::from_le_bytes(half), (expected >> 16) as u16);
    }
    // Another function, another bus, and what is not enabled.
    assert_eq!(read(&root, ECAM + (1 << 15) + (1 << 12)), u32::MAX);
    for address in [ENABLED | 1 << 16 | 1 << 11, 1 << 11] {
        address_port.write(0, &u32::to_le_bytes(address));
        let mut data = [0xff; 4];
        data_port.read(0, &mut data);
        assert_eq!(data, [0xff; 4]);
        address_port.read(0, &mut data);
        assert_eq!(u32::from_le_bytes(data), address);
    }
}

#[test]
fn memory_is_where_the_guest_places_it() {
    let root = root();
    assert_eq!(read(&root, 0xc000_0000), u32::MAX);
    place(&root, 1, 0xc000_0000);
    place(&root, 2, 0xc000_1000);
    write(&root, 0xc000_0010, 1);
    write(&root, 0xc000_1010, 2);
    assert_eq!([read(&root, 0xc000_0010), read(&root, 0xc000_1010)], [1, 2]);
    place(&root, 1, 0xd000_0000);
    assert_eq!([read(&root, 0xc000_0010), read(&root, 0xd000_0010)], [u32::MAX, 1]);
    write(&root, ECAM + (1 << 15) + 4, 0);
    assert_eq!(read(&root, 0xd000_0010), u32::MAX);
}

#[test]
fn extended_configuration_space_is_empty_and_absent_functions_have_none() {
    let root = root();
    assert_eq!(read(&root, ECAM + (1 << 15) + 0x100), 0);
    assert_eq!(read(&root, ECAM + (9 << 15) + 0x100), u32::MAX);
}

#[test]
fn odd_accesses_are_not_answered() {
    let root = root();
    let mut data = [0xff; 8];
    for size in [3, 5, 8] {
        root.access(ECAM + (1 << 15), Access::Read(&mut data[..size]));
        root.access(ECAM + (1 << 15) + 1, Access::Read(&mut data[..2]));
        root.access(ECAM + ECAM_SIZE, Access::Read(&mut data[..4]));
        root.access(u64::MAX, Access::Read(&mut data[..4]));
    }
    assert_eq!(data, [0xff; 8]);
    let ports = Ports::new(root);
    let (address_port, data_port) = (AddressPort(Arc::clone(&ports)), DataPort(ports));
    address_port.write(0, &(ENABLED | 1 << 11).to_le_bytes());
    data_port.read(1, &mut data[..2]);
    address_port.read(0, &mut data[..2]);
    address_port.write(0, &[1, 2]);
    assert_eq!(data, [0xff; 8]);
}

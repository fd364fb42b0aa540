use super::*;

#[test]
fn the_last_lines_are_kept_without_what_moves_the_cursor() {
    let mut console = Console::default();
    for number in 0..100 {
        console.add(format!("[    {number}.0] line {number}\r\n").as_bytes());
    }
    console.add(b"\x1b[1;31mred\x1b[0m\x07 text\r\n\r\n\xff end");
    let lines = console.last_lines();
    assert_eq!(lines.len(), 10);
    assert_eq!(lines[0], "[    92.0] line 92");
    assert_eq!(lines[8..], ["red text".to_string(), "\u{fffd} end".to_string()]);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut console = Console::default();
    for _ in 0..10 {
        console.add(&vec![b'x'; CAPACITY / 3]);
    }
    assert!(console.bytes.len() <= CAPACITY && console.line.len() <= 1024);
}

#[test]
fn a_panic_is_found_whatever_pieces_it_comes_in() {
    let text = "[    1.5] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n\
                [    1.6] CPU: 0 PID: 1\r\n\
                [    1.7] ---[ end Kernel panic - not syncing: VFS ]---\r\n";
    for size in [1, 7, 1000] {
        let mut console = Console::default();
        let news: Vec<News> = text.as_bytes().chunks(size).map(|part| console.add(part)).collect();
        assert_eq!(
            console.panic(),
            Some("Kernel panic - not syncing: VFS: Unable to mount root fs")
        );
        assert_eq!(news.last(), Some(&News::Dead), "{size}");
        assert_eq!(news.iter().filter(|news| **news == News::Dead).count(), 1);
    }
}

#[test]
fn a_panic_is_remembered_when_its_line_is_gone() {
    let mut console = Console::default();
    console.add(b"Kernel panic - not syncing: first\nKernel panic - not syncing: second\n");
    console.add(&vec![b'\n'; 2 * CAPACITY]);
    assert_eq!(console.panic(), Some("Kernel panic - not syncing: first"));
    assert!(console.last_lines().is_empty());
}

#[test]
fn talk_of_a_panic_is_none() {
    let mut console = Console::default();
    let line = b"[ 0.0] Command line: panic=-1 text=Kernel panic - not syncing\n";
    assert_eq!(console.add(line), News::None);
    assert_eq!(console.panic(), None);
}

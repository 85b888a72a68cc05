//! Sectors that can't be read any more, and what they cost: what is in them, and nothing else.

use storage::buffer::Buffer;
use storage::device::Device;
use storage::device::sim::{Executor, Sim};

/// The readable ones of a file's first blocks.
fn readable(sim: &Sim, name: &'static str, blocks: u64) -> Vec<u64> {
    let disk = sim.clone();
    let reading = async move {
        let file = disk.open(name).await.expect("opens");
        let mut readable = Vec::new();
        for block in 0..blocks {
            if disk.read(&file, block * 4096, Buffer::with_capacity(4096)).await.is_ok() {
                readable.push(block);
            }
        }
        readable
    };
    Executor::new(sim).block_on(reading).expect("comes to its end")
}

fn maps(sim: &Sim, name: &'static str) -> bool {
    let disk = sim.clone();
    let mapping = async move { disk.map(name).await.is_ok() };
    Executor::new(sim).block_on(mapping).expect("comes to its end")
}

#[test]
fn an_unreadable_range_of_the_simulated_disk_stays_until_it_is_written() {
    let sim = Sim::new(1);
    sim.put_file("file", vec![7; 6 * 4096]);
    assert!(maps(&sim, "file"));
    assert!(sim.make_unreadable("file", 4096 + 512..3 * 4096));
    assert!(!sim.make_unreadable("nothing", 0..1));
    for _ in 0..2 {
        assert_eq!(readable(&sim, "file", 6), [0, 3, 4, 5]);
        assert!(!maps(&sim, "file"));
    }
    assert_eq!(readable(&sim.after_kill(), "file", 6), [0, 3, 4, 5]);
    let sim = Sim::new(2);
    sim.put_file("file", vec![7; 6 * 4096]);
    sim.make_unreadable("file", 4096..3 * 4096);
    let sim = sim.after_crash();
    assert_eq!(readable(&sim, "file", 6), [0, 3, 4, 5]);
    let disk = sim.clone();
    let writing = async move {
        let file = disk.open("file").await.expect("opens");
        disk.write_durably(&file, 4096, Buffer::zeroed(4096)).await.0.expect("writes");
    };
    Executor::new(&sim).block_on(writing);
    assert_eq!(readable(&sim, "file", 6), [0, 1, 3, 4, 5]);
}

fn main() {
    let folder = std::env::args().nth(1).unwrap();
    let folder =
        storyloom_orchestrator::RunFolder::new(folder, std::sync::Arc::new(storyloom_memory::Disk));
    let begun = std::time::Instant::now();
    let written = storyloom_orchestrator::report::write_report(&folder).unwrap();
    println!("{written:?} {:?}", begun.elapsed());
}

use lb_tests::bench::program::{Options, run};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let all = run(
        Options {
            object: a[1].as_ref(),
            services: 10_000,
            repetitions: 5,
            packets: 300_000,
        },
        &mut |_| {},
    )
    .unwrap();
    let floor = all[1].clone();
    for m in &all {
        let s = m.summary().unwrap();
        println!(
            "{:60} {:10} {:6} ({}..{})  {:.2}",
            m.load,
            m.variant,
            s.median,
            s.least,
            s.most,
            m.ratio(&floor).unwrap().median
        );
    }
}

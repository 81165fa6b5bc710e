use lb_tests::bench::{Options, Part, Progress, run};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let all = run(
        &Options {
            object: a[1].clone().into(),
            quick: true,
            only: Some(Part::Program),
            peer: None,
        },
        &mut Progress::new(),
    )
    .unwrap();
    let floor = all[1].clone();
    for m in &all {
        let s = m.summary().unwrap();
        println!(
            "{:60} {:6} ({}..{})  {:.2}",
            m.variant,
            s.median,
            s.least,
            s.most,
            m.ratio(&floor).unwrap().median
        );
    }
}

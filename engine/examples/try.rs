//! scratch
use moewe_engine::session::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let mut o = Options::default();
    if a.get(3).is_some_and(|x| x == "plain") {
        o.plain = true;
    }
    o.context = Some(2048);
    let e = Engine::open(&a[1], o).unwrap();
    eprintln!("load {:?} {:?}", e.load_time(), e.hardware());
    let t = e.tokenizer().unwrap();
    let mut ids = t.encode_with_bos(&a[2], moewe_engine::tokenizer::Special::Parse).unwrap();
    eprintln!("{ids:?}");
    let mut s = e.session().unwrap();
    let t0 = std::time::Instant::now();
    s.synchronise(&ids).unwrap();
    eprintln!("prefill {:?}", t0.elapsed());
    let t0 = std::time::Instant::now();
    let n = 40;
    for _ in 0..n {
        let l = s.logits();
        let best = (0..l.len()).max_by(|&a, &b| l[a].total_cmp(&l[b])).unwrap() as u32;
        ids.push(best);
        s.synchronise(&ids).unwrap();
    }
    eprintln!("decode {:.1} t/s", n as f64 / t0.elapsed().as_secs_f64());
    eprintln!("{}", t.decode(&ids));
}

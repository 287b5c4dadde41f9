// The seed's own design (Mutex + HashMap<user, VecDeque> + Vec order, linear node scan), std only,
// as a yardstick for the Cython core: `rustc -O seed_design.rs && ./seed_design`.
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::cmp::Reverse;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Instant;

struct Entry { _id: u128, user: String, _arrived: Instant, deadline: u64 }
struct Fair { queues: HashMap<String, VecDeque<Entry>>, idx: usize, order: Vec<String>, len: usize }
impl Fair {
    fn push(&mut self, e: Entry) {
        if let Some(q) = self.queues.get_mut(&e.user) { q.push_back(e); }
        else { self.order.push(e.user.clone()); let u = e.user.clone(); let mut q = VecDeque::new(); q.push_back(e); self.queues.insert(u, q); }
        self.len += 1;
    }
    fn pop(&mut self) -> Option<Entry> {
        if self.len == 0 { return None; }
        loop {
            if self.idx >= self.order.len() { self.idx = 0; }
            let u = &self.order[self.idx];
            let q = self.queues.get_mut(u).unwrap();
            if let Some(e) = q.pop_front() {
                self.len -= 1;
                if q.is_empty() { let u = self.order.remove(self.idx); self.queues.remove(&u); } else { self.idx += 1; }
                return Some(e);
            }
            self.idx += 1;
        }
    }
}
struct Node { gpu: f32, qlen: usize, online: bool, models: Vec<String> }
fn select<'a>(nodes: &'a [Node], m: &str) -> Option<&'a Node> {
    nodes.iter().filter(|n| n.online && n.models.iter().any(|x| x == m))
        .min_by_key(|n| (n.gpu * 0.3 * 100.0) as u32 + (n.qlen as f32 * 0.7 * 10.0) as u32)
}
fn draw(x: &mut u64) -> u64 { *x ^= *x << 13; *x ^= *x >> 7; *x ^= *x << 17; *x }
/// The same work as core_loop.pyx's `cycle`: on a queue that was filled before, one request comes (random user and deadline)
/// and one goes: enqueue + heap push, dequeue + heap pop. Nanoseconds for each such pair.
fn cycle(users: usize, waiting: usize, n: usize) -> f64 {
    let now = Instant::now();
    let names: Vec<String> = (0..users).map(|i| format!("user-{i:06}")).collect();
    let q = Arc::new(Mutex::new(Fair { queues: HashMap::new(), idx: 0, order: vec![], len: 0 }));
    let mut h = BinaryHeap::new();
    let mut x = 88172645463325252u64;
    let mut put = |h: &mut BinaryHeap<Reverse<(u64, u64)>>, i: u64| {
        let r = draw(&mut x);
        q.lock().unwrap().push(Entry { _id: i as u128, user: names[(r % users as u64) as usize].clone(), _arrived: now, deadline: r >> 16 });
        h.push(Reverse((r >> 16, i)));
    };
    for i in 0..waiting { put(&mut h, i as u64); }
    let t = Instant::now();
    let mut s = 0u64;
    for i in 0..n {
        put(&mut h, (waiting + i) as u64);
        s += q.lock().unwrap().pop().unwrap().deadline;
        black_box(h.pop());
    }
    black_box(s);
    t.elapsed().as_nanos() as f64 / n as f64
}
fn main() {
    let now = Instant::now();
    for (users, waiting) in [(100usize, 1_000usize), (100, 100_000), (10_000, 100_000)] {
        let mut best = f64::MAX;
        for _ in 0..5 { best = best.min(cycle(users, waiting, 200_000)); }
        println!("cycle users={users} waiting={waiting}: {best:.0} ns");
    }
    for users in [1usize, 100, 10_000] {
        let names: Vec<String> = (0..users).map(|i| format!("user-{i:06}")).collect();
        let q = Arc::new(Mutex::new(Fair { queues: HashMap::new(), idx: 0, order: vec![], len: 0 }));
        let n = 200_000;
        let mut best = (f64::MAX, f64::MAX);
        for _ in 0..5 {
            let t = Instant::now();
            for i in 0..n { q.lock().unwrap().push(Entry { _id: i as u128, user: names[(i * 7919) % users].clone(), _arrived: now, deadline: i as u64 }); }
            let a = t.elapsed().as_nanos() as f64 / n as f64;
            let t = Instant::now();
            let mut s = 0u64;
            for _ in 0..n { s += q.lock().unwrap().pop().unwrap().deadline; }
            black_box(s);
            let b = t.elapsed().as_nanos() as f64 / n as f64;
            best = (best.0.min(a), best.1.min(b));
        }
        println!("fair queue users={users}: enqueue {:.0} ns dequeue {:.0} ns", best.0, best.1);
    }
    let mut h = BinaryHeap::new();
    let n = 200_000u64;
    let t = Instant::now();
    let mut x = 88172645463325252u64;
    for i in 0..n { x ^= x << 13; x ^= x >> 7; x ^= x << 17; h.push(Reverse((x, i))); }
    let a = t.elapsed().as_nanos() as f64 / n as f64;
    let t = Instant::now();
    while let Some(v) = h.pop() { black_box(v); }
    println!("BinaryHeap deadline 200k: push {:.0} ns pop {:.0} ns", a, t.elapsed().as_nanos() as f64 / n as f64);
    for k in [8usize, 64, 1000] {
        let nodes: Vec<Node> = (0..k).map(|i| Node { gpu: (i * 37 % 100) as f32 / 100.0, qlen: i * 13 % 17, online: i % 11 != 0, models: vec!["llama-3-8b".into(), "qwen3-32b".into()] }).collect();
        let r = 2_000_000 / k;
        let t = Instant::now();
        for _ in 0..r { black_box(select(black_box(&nodes), black_box("qwen3-32b"))); }
        println!("select_node {k} nodes: {:.0} ns", t.elapsed().as_nanos() as f64 / r as f64);
    }
}

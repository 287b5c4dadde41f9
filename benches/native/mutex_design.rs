// The design that this project started from: a Mutex around a HashMap of VecDeques and a Vec of users, a BinaryHeap of
// deadlines, and a linear scan over the nodes. Kept as a yardstick, std only: `rustc -O`.
//
// It does the work of benches/native/core_loop.pyx with the same random users and deadlines. What it does not have: weights,
// costs, removal of a request that is not at the head, handles, limits, leases.
//
//   mutex_design CASE REPEATS     prints the nanoseconds of every repeat
//     cycle USERS WAITING         on a queue filled before: enqueue + heap push of one, dequeue + heap pop of another
//     phases USERS                enqueue of 200,000, then dequeue of all; heap push of 200,000, then pop of all; the sum
//     pop                         pop of all of a heap of 200,000
//     choose NODES                one choice among that many nodes
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Instant;

struct Entry {
    _id: u128,
    user: String,
    _arrived: Instant,
    deadline: u64,
}

struct Fair {
    queues: HashMap<String, VecDeque<Entry>>,
    idx: usize,
    order: Vec<String>,
    len: usize,
}

impl Fair {
    fn new() -> Self {
        Fair { queues: HashMap::new(), idx: 0, order: vec![], len: 0 }
    }
    fn push(&mut self, e: Entry) {
        if let Some(q) = self.queues.get_mut(&e.user) {
            q.push_back(e);
        } else {
            self.order.push(e.user.clone());
            let u = e.user.clone();
            let mut q = VecDeque::new();
            q.push_back(e);
            self.queues.insert(u, q);
        }
        self.len += 1;
    }
    fn pop(&mut self) -> Option<Entry> {
        if self.len == 0 {
            return None;
        }
        loop {
            if self.idx >= self.order.len() {
                self.idx = 0;
            }
            let u = &self.order[self.idx];
            let q = self.queues.get_mut(u).unwrap();
            if let Some(e) = q.pop_front() {
                self.len -= 1;
                if q.is_empty() {
                    let u = self.order.remove(self.idx);
                    self.queues.remove(&u);
                } else {
                    self.idx += 1;
                }
                return Some(e);
            }
            self.idx += 1;
        }
    }
}

struct Node {
    gpu: f32,
    qlen: usize,
    online: bool,
    models: Vec<String>,
}

fn select<'a>(nodes: &'a [Node], m: &str) -> Option<&'a Node> {
    nodes
        .iter()
        .filter(|n| n.online && n.models.iter().any(|x| x == m))
        .min_by_key(|n| (n.gpu * 0.3 * 100.0) as u32 + (n.qlen as f32 * 0.7 * 10.0) as u32)
}

fn draw(x: &mut u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    *x
}

fn each(t: Instant, n: usize) -> f64 {
    t.elapsed().as_nanos() as f64 / n as f64
}

fn names(users: usize) -> Vec<String> {
    (0..users).map(|i| format!("user-{i:06}")).collect()
}

fn cycle(users: usize, waiting: usize, n: usize) -> f64 {
    let now = Instant::now();
    let names = names(users);
    let q = Arc::new(Mutex::new(Fair::new()));
    let mut h = BinaryHeap::new();
    let mut x = 88172645463325252u64;
    let mut put = |h: &mut BinaryHeap<Reverse<(u64, u64)>>, i: usize| {
        let r = draw(&mut x);
        let user = names[(r % users as u64) as usize].clone();
        q.lock().unwrap().push(Entry { _id: i as u128, user, _arrived: now, deadline: r >> 16 });
        h.push(Reverse((r >> 16, i as u64)));
    };
    for i in 0..waiting {
        put(&mut h, i);
    }
    let t = Instant::now();
    let mut s = 0u64;
    for i in 0..n {
        put(&mut h, waiting + i);
        s += q.lock().unwrap().pop().unwrap().deadline;
        black_box(h.pop());
    }
    black_box(s);
    each(t, n)
}

fn heap(n: usize) -> (f64, f64) {
    let mut h = BinaryHeap::new();
    let mut x = 88172645463325252u64;
    let t = Instant::now();
    for i in 0..n {
        h.push(Reverse((draw(&mut x), i)));
    }
    let push = each(t, n);
    let t = Instant::now();
    while let Some(v) = h.pop() {
        black_box(v);
    }
    (push, each(t, n))
}

fn phases(users: usize, n: usize) -> f64 {
    let now = Instant::now();
    let names = names(users);
    let q = Arc::new(Mutex::new(Fair::new()));
    let t = Instant::now();
    for i in 0..n {
        let user = names[(i * 7919) % users].clone();
        q.lock().unwrap().push(Entry { _id: i as u128, user, _arrived: now, deadline: i as u64 });
    }
    let mut s = 0u64;
    for _ in 0..n {
        s += q.lock().unwrap().pop().unwrap().deadline;
    }
    black_box(s);
    let queue = each(t, n);
    let (push, pop) = heap(n);
    queue + push + pop
}

fn choose(k: usize) -> f64 {
    let nodes: Vec<Node> = (0..k)
        .map(|i| Node {
            gpu: (i * 37 % 100) as f32 / 100.0,
            qlen: i * 13 % 17,
            online: i % 11 != 0,
            models: vec!["llama-3-8b".into(), "qwen3-32b".into()],
        })
        .collect();
    let n = 2_000_000 / k;
    let t = Instant::now();
    for _ in 0..n {
        black_box(select(black_box(&nodes), black_box("qwen3-32b")));
    }
    each(t, n)
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize| -> usize { args.get(i).and_then(|a| a.parse().ok()).expect("usage: see the head of the file") };
    let case = args.get(1).map(String::as_str).unwrap_or("");
    let repeats = number(args.len() - 1);
    for _ in 0..repeats {
        let ns = match case {
            "cycle" => cycle(number(2), number(3), 100_000),
            "phases" => phases(number(2), 200_000),
            "pop" => heap(200_000).1,
            "choose" => choose(number(2)),
            _ => panic!("usage: see the head of the file"),
        };
        println!("{ns:.1}");
    }
}

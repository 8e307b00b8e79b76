//! The fast forms against the plain ones. That the slopes are right, the models' tests show with finite differences.

use super::*;
use crate::random::Random;
use candle_core::{DType, Device, Shape, Tensor};

fn random(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let (shape, mut random) = (shape.into(), Random::at(seed, &[]));
    let values: Vec<f64> = (0..shape.elem_count()).map(|_| random.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn gradient(shape: impl Into<Shape>) -> Gradient {
    Gradient::zeros(&shape.into(), DType::F64, &Device::Cpu).unwrap()
}

fn assert_close(what: &str, fast: &Tensor, plain: &Tensor) {
    assert_eq!(fast.shape(), plain.shape(), "{what}");
    let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    for (i, (a, b)) in numbers(fast).into_iter().zip(numbers(plain)).enumerate() {
        assert!((a - b).abs() <= 1e-6 * (1.0 + b.abs()), "{what} at {i}: {a} and {b}");
    }
}

#[test]
fn norms() {
    let (x, dy, residual) = (random(1, (70, 24)), random(2, (70, 24)), random(3, (70, 24)));
    let (weight, bias) = (random(4, 24), random(5, 24));
    for (kind, bias) in [(NormKind::Rms, None), (NormKind::Layer, Some(&bias))] {
        let norm = Norm { kind, epsilon: 1e-5, weight: &weight, bias };
        assert_close("forward", &norm.forward(&x).unwrap(), &norm.forward_plain(&x).unwrap());
        let sums: Vec<Gradient> = (0..4).map(|_| gradient(24)).collect();
        let of = |i: usize| NormGradients { weight: &sums[i], bias: bias.map(|_| &sums[i + 1]) };
        let fast = norm.backward(&x, &dy, Some(&residual), of(0)).unwrap();
        let plain = norm.backward_plain(&x, &dy, Some(&residual), of(2)).unwrap();
        assert_close("backward", &fast, &plain);
        assert_close("weight", &sums[0].total().unwrap(), &sums[2].total().unwrap());
        assert_close("bias", &sums[1].total().unwrap(), &sums[3].total().unwrap());
    }
}

#[test]
fn heads() {
    let rows = random(1, (2 * 7, 8 * 6));
    let positions: Vec<u32> = (0..2 * 7).map(|i| (i % 5) as u32).collect();
    let cases = [(6, 6, None), (4 * 6, 2 * 6, None), (6, 6, Some(&positions[..]))];
    for (style, (query, key, positions)) in
        cases.into_iter().flat_map(|case| [(RotationStyle::Halves, case), (RotationStyle::Interleaved, case)])
    {
        let (query, key) = (random(2, query), random(3, key));
        let rotation = Rotation::new(style, 100.0, (16, 6), DType::F64, &Device::Cpu).unwrap();
        let norm = Some(HeadNorm { epsilon: 1e-6, query: &query, key: &key });
        let heads = Heads {
            batch: 2,
            length: 7,
            count: 4,
            count_kv: 2,
            size: 6,
            norm,
            rotation: Some(&rotation),
            positions,
        };
        let fast = heads.split(&rows).unwrap();
        fast.iter().zip(heads.split_plain(&rows).unwrap()).for_each(|(a, b)| assert_close("split", a, &b));
        let d = [random(4, (2, 4, 7, 6)), random(5, (2, 2, 7, 6)), random(6, (2, 2, 7, 6))];
        let d = [&d[0], &d[1], &d[2]];
        let widths = [&query, &key, &query, &key].map(Tensor::elem_count);
        let sums = widths.map(gradient);
        let fast = heads.join(&rows, d, Some((&sums[0], &sums[1]))).unwrap();
        let plain = heads.join_plain(&rows, d, [Some(&sums[2]), Some(&sums[3]), None]).unwrap();
        assert_close("join", &fast, &plain);
        assert_close("query norm", &sums[0].total().unwrap(), &sums[2].total().unwrap());
        assert_close("key norm", &sums[1].total().unwrap(), &sums[3].total().unwrap());
        let merged = heads.merge(d[0]).unwrap();
        assert_close("there and back", &heads.unmerge(&merged).unwrap(), d[0]);
    }
}

#[test]
fn attention() {
    // Longer than a block of the fast form, and not a multiple of it.
    let length = 150;
    let shape = |heads| (2usize, heads, length, 8usize);
    let (q, k, v, d) = (random(1, shape(4)), random(2, shape(2)), random(3, shape(2)), random(4, shape(4)));
    // Texts that end within blocks and at their ends; the last fills a row up.
    let texts = |lengths: &[usize]| -> Vec<u32> {
        let mut start = 0;
        let text = |&length: &usize| {
            start += length;
            vec![(start - length) as u32; length]
        };
        lengths.iter().flat_map(text).collect()
    };
    let starts = [texts(&[5, 59, 64, 22]), texts(&[100, 1, 49])].concat();
    let dropouts = [None, Some(Dropout { rate: 0.3, seed: 17 })];
    for (dropout, starts) in dropouts.into_iter().flat_map(|d| [(d, None), (d, Some(&starts[..]))]) {
        let attention = Attention { scale: 0.4, dropout, starts };
        let fast = attention.forward(&q, &k, &v).unwrap();
        assert_close("forward", &fast.output, &attention.forward_plain(&q, &k, &v).unwrap());
        let slopes = attention.backward([&q, &k, &v], &fast, &d).unwrap();
        let plain = attention.backward_plain([&q, &k, &v], &fast.output, &d).unwrap();
        slopes.iter().zip(&plain).for_each(|(a, b)| assert_close("backward", a, b));
    }
}

#[test]
fn activations() {
    let (x, dy) = (random(1, (70, 12)), random(2, (70, 12)));
    let weights: Vec<f64> = (0..70).map(|i| 0.1 * i as f64).collect();
    for activation in [Activation::Gelu, Activation::Relu, Activation::Swiglu] {
        let dy = dy.narrow(1, 0, 12 / activation.branches()).unwrap().contiguous().unwrap();
        for weights in [None, Some(&weights[..])] {
            let plain = activation.forward_plain(&x, weights).unwrap();
            assert_close("forward", &activation.forward(&x, weights).unwrap(), &plain);
            let (fast, fast_slopes) = activation.backward(&x, &dy, weights).unwrap();
            let (plain, slopes) = activation.backward_plain(&x, &dy, weights).unwrap();
            assert_close("backward", &fast, &plain);
            let row = |values: Vec<f64>| Tensor::new(values, &Device::Cpu).unwrap();
            assert_close("weights", &row(fast_slopes), &row(slopes));
        }
    }
}

#[test]
fn routed_rows() {
    let dispatch = Dispatch::new(vec![3, 0, 3, 1, 5, 0, 3], 6);
    let (x, y) = (random(1, (6, 10)), random(2, (7, 10)));
    assert_close("gather", &dispatch.gather(&x).unwrap(), &dispatch.gather_plain(&x).unwrap());
    assert_close("combine", &dispatch.combine(&y).unwrap(), &dispatch.combine_plain(&y).unwrap());
}

#[test]
fn grouped_products() {
    // An expert without rows, and one with more than a task of the fast form.
    let groups = Groups(vec![0, 300, 300, 341]);
    let (x, weights, dy) = (random(1, (341, 9)), random(2, (3, 5, 9)), random(3, (341, 5)));
    let plain = groups.linear_plain(&x, &weights).unwrap();
    assert_close("forward", &groups.linear(&x, &weights).unwrap(), &plain);
    let transposed = weights.transpose(1, 2).unwrap().contiguous().unwrap();
    let plain = groups.linear_plain(&dy, &transposed).unwrap();
    assert_close("backward", &groups.linear_backward(&dy, &weights).unwrap(), &plain);
    let (fast, plain) = (gradient((3, 5, 9)), gradient((3, 5, 9)));
    groups.weight_backward(&dy, &x, &fast).unwrap();
    groups.weight_backward_plain(&dy, &x, &plain).unwrap();
    assert_close("weights", &fast.total().unwrap(), &plain.total().unwrap());
}

#[test]
fn products_beside_a_matrix() {
    // Added in place to some columns, from a matrix as it lies and from a transposed one.
    let (y, h, m) = (random(1, (70, 9)), random(2, (70, 3)), random(3, (3, 4)));
    for m in [m.clone(), m.t().unwrap().contiguous().unwrap().t().unwrap()] {
        let plain = linear::with_product_plain(&y, 2, &h, (&m, 0.7)).unwrap();
        assert_close("columns", &linear::with_product(y.copy().unwrap(), 2, &h, (&m, 0.7)).unwrap(), &plain);
    }
}

/// What is merged computes the same: the weight of each row's expert plus `scale * b * a`.
#[test]
fn adapters_are_sums_of_matrices() {
    let groups = Groups(vec![0, 300, 300, 341]);
    let (x, w) = (random(1, (341, 9)), random(2, (3, 5, 9)));
    let (a, b) = (random(3, (3, 2, 9)), random(4, (3, 5, 2)));
    let (frozen, da, db) = (Gradient::frozen(), gradient((3, 2, 9)), gradient((3, 5, 2)));
    let learned = |values: &Tensor, gradient| Learned { values: values.clone(), gradient };
    let adapter = GroupedLowRank { a: learned(&a, &da), b: learned(&b, &db), scale: 0.7 };
    let own =
        GroupedLinear { weights: Learned { values: w.clone(), gradient: &frozen }, adapter: Some(adapter) };
    let merged = (&w + (b.matmul(&a).unwrap() * 0.7).unwrap()).unwrap();
    let expected = groups.linear(&x, &merged).unwrap();
    assert_close("experts", &own.forward(&groups, &x).unwrap(), &expected);
    let dy = random(5, (341, 5));
    assert_close(
        "experts' input",
        &own.backward(&groups, &dy, &x).unwrap(),
        &groups.linear_backward(&dy, &merged).unwrap(),
    );
    // One expert alone is a matrix with its adapter.
    let one = |t: &Tensor, e: usize| t.get(e).unwrap();
    let (da_0, db_0) = (gradient((2, 9)), gradient((5, 2)));
    let beside = LowRank {
        a: Learned { values: one(&a, 0), gradient: &da_0 },
        b: Learned { values: one(&b, 0), gradient: &db_0 },
        scale: 0.7,
        first: 0,
        dropout: None,
        magnitude: None,
    };
    let single = Linear {
        weight: Learned { values: one(&w, 0), gradient: &frozen },
        bias: None,
        adapters: vec![beside],
    };
    let rows = |t: &Tensor| t.narrow(0, 0, 300).unwrap().contiguous().unwrap();
    assert_close("a matrix", &single.forward(&rows(&x)).unwrap(), &rows(&expected));
    single.backward(&rows(&dy), &rows(&x)).unwrap();
    assert_close("its A", &da_0.total().unwrap(), &one(&da.total().unwrap(), 0));
    assert_close("its B", &db_0.total().unwrap(), &one(&db.total().unwrap(), 0));
    assert!(frozen.total().is_none(), "what is not trained has no gradient");
}

#[test]
fn cross_entropy() {
    let logits = random(1, (5, 33));
    let targets = [3, IGNORED, 32, 0, 7];
    let identity = Tensor::eye(33, DType::F64, &Device::Cpu).unwrap();
    let (total, plain) = super::cross_entropy::slopes_plain(&logits, &targets, 0.5).unwrap();
    let own = gradient((33, 33));
    let weight = Learned { values: identity, gradient: &own };
    let head = Linear { weight, bias: None, adapters: vec![] };
    let head = CrossEntropy { head: &head, targets: &targets };
    let (fast_total, fast) = head.forward_backward(&logits, 0.5).unwrap();
    assert_close("slopes", &fast, &plain);
    assert!((total - fast_total).abs() < 1e-9 && (total - head.forward(&logits).unwrap()).abs() < 1e-9);
}

//! Every op against central finite differences, on small odd sizes.

use std::sync::LazyLock;

use super::{Dropping, Init, NodeId, ParamSet, Shape, Tape, op::len};
use crate::backend::{Backend, Window, cpu::Cpu};
use crate::random::Random;

/// Checks the gradients of `build`'s output, weighted by fixed random values and summed, with respect to the
/// inputs and to every parameter.
#[allow(clippy::needless_range_loop)] // the closures write the element they index
fn check(inputs: &[Shape], params: &[Shape], build: impl Fn(&mut Tape<Cpu>, &[NodeId], &[NodeId]) -> NodeId) {
    let cpu = Cpu::default();
    let mut random = Random::new(11);
    let mut set = ParamSet::default();
    for (i, &shape) in params.iter().enumerate() {
        set.add(&cpu, format!("p{i}"), shape, Init::FanIn { fan_in: 3, gain: 1.0 }, &mut random);
    }
    let mut values: Vec<Vec<f32>> = inputs.iter().map(|&s| normal(&mut random, len(s))).collect();
    let run = |set: &mut ParamSet<Cpu>, values: &[Vec<f32>], weights: Option<&[f32]>| {
        let mut tape = Tape::new(&cpu, set);
        let ids: Vec<_> = inputs.iter().zip(values).map(|(&s, v)| tape.input("x", s, v)).collect();
        let param_ids: Vec<_> = (0..params.len()).map(|i| tape.param(i)).collect();
        let out = build(&mut tape, &ids, &param_ids);
        let value = tape.value(out);
        let grads = weights.map(|weights| {
            tape.seed(out, weights);
            tape.backward();
            ids.iter().map(|&id| tape.grad(id).unwrap()).collect::<Vec<_>>()
        });
        (value, grads.unwrap_or_default())
    };
    let (value, _) = run(&mut set, &values, None);
    let weights = normal(&mut random, value.len());
    let (_, grads) = run(&mut set, &values, Some(&weights));
    let objective = |value: &[f32]| value.iter().zip(&weights).map(|(&v, &w)| f64::from(v) * f64::from(w)).sum::<f64>();

    const STEP: f32 = 1e-2;
    let compare = |what: String, analytic: f32, above: f64, below: f64| {
        let numeric = (above - below) / f64::from(2.0 * STEP);
        let error = (numeric - f64::from(analytic)).abs() / (1.0 + numeric.abs());
        assert!(error < 1e-2, "{what}: tape {analytic}, finite difference {numeric}");
    };
    for i in 0..inputs.len() {
        for j in 0..values[i].len() {
            let at = values[i][j];
            let [above, below] = [STEP, -STEP].map(|step| {
                values[i][j] = at + step;
                objective(&run(&mut set, &values, None).0)
            });
            values[i][j] = at;
            compare(format!("input {i}[{j}]"), grads[i][j], above, below);
        }
    }
    for i in 0..params.len() {
        for j in 0..len(params[i]) {
            let at = set.params[i].value[j];
            let [above, below] = [STEP, -STEP].map(|step| {
                set.params[i].value[j] = at + step;
                objective(&run(&mut set, &values, None).0)
            });
            set.params[i].value[j] = at;
            compare(format!("parameter {i}[{j}]"), set.params[i].grad[j], above, below);
        }
    }
}

fn normal(random: &mut Random, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    random.fill_normal(&mut values);
    values
}

fn vector(n: usize) -> Shape {
    [1, 1, 1, n]
}

#[test]
fn convolution_3x3() {
    check(&[[2, 5, 3, 7]], &[[1, 1, 63, 19], vector(19)], |t, x, p| t.conv(x[0], p[0], p[1], Window::centred(3, 1)));
}

#[test]
fn convolution_3x3_with_stride_2_on_even_and_odd_sizes() {
    check(&[[2, 4, 6, 3]], &[[1, 1, 27, 5], vector(5)], |t, x, p| t.conv(x[0], p[0], p[1], Window::centred(3, 2)));
    check(&[[1, 5, 3, 8]], &[[1, 1, 72, 2], vector(2)], |t, x, p| t.conv(x[0], p[0], p[1], Window::centred(3, 2)));
}

#[test]
fn convolution_by_other_windows() {
    let window = |sides, stride, before, after| Window { sides, stride, before, after };
    for window in
        [window([3, 3], 2, [0, 0], [0, 0]), window([1, 5], 1, [0, 2], [0, 2]), window([3, 2], 2, [1, 0], [0, 2])]
    {
        let rows = 3 * window.taps();
        check(&[[2, 4, 5, 3]], &[[1, 1, rows, 2], vector(2)], |t, x, p| t.conv(x[0], p[0], p[1], window));
    }
}

#[test]
fn pools() {
    for mean in [false, true] {
        check(&[[2, 5, 4, 3]], &[], |t, x, _| t.pool(x[0], Window::centred(3, 1), mean));
        let window = Window { sides: [3, 2], stride: 2, before: [0, 0], after: [0, 0] };
        check(&[[2, 5, 4, 3]], &[], |t, x, _| t.pool(x[0], window, mean));
    }
}

#[test]
fn a_frozen_tape_leads_to_its_inputs_alone() {
    let cpu = Cpu::default();
    let mut random = Random::new(5);
    let run = |frozen: bool, random: &mut Random| {
        let mut set = ParamSet::default();
        set.add(&cpu, "weight".into(), [1, 1, 18, 3], Init::FanIn { fan_in: 18, gain: 1.0 }, random);
        for name in ["bias", "scale", "shift"] {
            set.add(&cpu, name.into(), vector(3), Init::Constant(0.1), random);
        }
        let mut tape = Tape::new(&cpu, &mut set);
        if frozen {
            tape = tape.frozen();
        }
        let x = tape.input("x", [1, 2, 2, 2], &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]);
        let (weight, bias) = (tape.param(0), tape.param(1));
        let y = tape.conv(x, weight, bias, Window::centred(3, 1));
        let (scale, shift) = (tape.param(2), tape.param(3));
        let y = tape.group_norm(y, scale, shift, 1, true);
        tape.seed(y, &[1.0, 2.0, 0.0, 1.0, 0.5, 0.0, 3.0, 1.0, 1.0, 0.0, 2.0, 1.0]);
        tape.backward();
        let grad = tape.grad(x).unwrap();
        drop(tape);
        (grad, set.params[0].grad.iter().any(|&g| g != 0.0))
    };
    let (free, frozen) = (run(false, &mut random.clone()), run(true, &mut random));
    assert_eq!(free.0, frozen.0);
    assert_eq!((free.1, frozen.1), (true, false));
}

#[test]
fn linear_layer() {
    check(&[[3, 1, 1, 13]], &[[1, 1, 13, 17], vector(17)], |t, x, p| t.conv(x[0], p[0], p[1], Window::centred(1, 1)));
}

#[test]
fn group_norm_with_and_without_silu() {
    for silu in [false, true] {
        check(&[[2, 3, 2, 6]], &[vector(6), vector(6)], |t, x, p| t.group_norm(x[0], p[0], p[1], 3, silu));
    }
}

#[test]
fn layer_norm() {
    check(&[[2, 3, 2, 5]], &[[1, 3, 2, 5], [1, 3, 2, 5]], |t, x, p| t.layer_norm(x[0], p[0], p[1]));
}

#[test]
fn activations() {
    check(&[[2, 1, 3, 5]], &[], |t, x, _| t.silu(x[0]));
    check(&[[2, 1, 3, 5]], &[], |t, x, _| t.leaky_relu(x[0], 0.2));
}

#[test]
fn sums() {
    check(&[[2, 2, 3, 4], [2, 2, 3, 4]], &[], |t, x, _| t.add(x[0], x[1]));
    check(&[[2, 2, 3, 4], [2, 1, 1, 4]], &[], |t, x, _| t.add_vector(x[0], x[1]));
}

#[test]
fn dropout_in_training_and_none_without() {
    static SEED: LazyLock<Vec<f32>> = LazyLock::new(|| vec![5.0, 9.0]);
    let dropping = |first_sample| Dropping { seed: &*SEED, first_sample };
    let drop = |t: &mut Tape<Cpu>, x| {
        t.dropping = Some(dropping(0));
        t.dropout(x, 0.4)
    };
    check(&[[2, 2, 3, 4]], &[], |t, x, _| drop(t, x[0]));

    let (cpu, mut set) = (Cpu::default(), ParamSet::default());
    let mut run = |of: Option<Dropping<Cpu>>, samples: usize, rate: f32| {
        let mut tape = Tape::new(&cpu, &mut set);
        tape.dropping = of;
        let x = tape.input("", [samples, 2, 3, 4], &vec![1.0; samples * 24]);
        let (a, b) = (tape.dropout(x, rate), tape.dropout(x, rate));
        (tape.value(a), tape.value(b), tape.nodes().len())
    };
    let plain = vec![1.0; 4 * 24];
    assert_eq!(run(None, 4, 0.4), (plain.clone(), plain.clone(), 1));
    assert_eq!(run(Some(dropping(0)), 4, 0.0), (plain.clone(), plain, 1));
    let (a, b, _) = run(Some(dropping(0)), 4, 0.4);
    assert!(a.contains(&0.0) && a != b, "each layer has a mask of its own");
    // A process that has the last sample alone drops what one that has them all does.
    assert_eq!(run(Some(dropping(3)), 1, 0.4).0, a[3 * 24..]);
}

#[test]
fn a_node_used_twice_sums_its_gradients() {
    check(&[[2, 2, 3, 4]], &[], |t, x, _| {
        let s = t.silu(x[0]);
        let sum = t.add(s, x[0]);
        t.add(sum, s)
    });
}

#[test]
fn rearrangements() {
    check(&[[2, 2, 3, 4], [2, 2, 3, 3]], &[], |t, x, _| t.concat(x[0], x[1]));
    check(&[[2, 2, 3, 4]], &[], |t, x, _| t.upsample(x[0]));
    check(&[[2, 2, 3, 8]], &[], |t, x, _| t.depth_to_space(x[0]));
    check(&[[2, 5, 7, 3]], &[], |t, x, _| t.crop(x[0], 2));
}

#[test]
fn attention_with_one_and_two_heads() {
    for heads in [1, 2] {
        check(&[[2, 2, 3, 12]], &[], |t, x, _| t.attention(x[0], heads));
    }
}

#[test]
fn the_straight_through_estimator_passes_the_gradient_on() {
    let cpu = Cpu::default();
    let mut set = ParamSet::default();
    let mut tape = Tape::new(&cpu, &mut set);
    let x = tape.input("x", [1, 1, 1, 2], &[0.4, 0.6]);
    let y = tape.straight_through(x, vec![0.0, 1.0]);
    assert_eq!(tape.value(y), [0.0, 1.0]);
    tape.seed(y, &[3.0, -1.0]);
    tape.backward();
    assert_eq!(tape.grad(x).unwrap(), [3.0, -1.0]);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let cpu = Cpu::default();
            let mut random = Random::new(5);
            let mut set = ParamSet::default();
            let init = Init::FanIn { fan_in: 9 * 20, gain: 1.0 };
            set.add(&cpu, "weight".into(), [1, 1, 180, 35], init, &mut random);
            set.add(&cpu, "bias".into(), vector(35), init, &mut random);
            let x = normal(&mut random, 9 * 8 * 8 * 20);
            let seed = normal(&mut random, 9 * 8 * 8 * 35);
            let mut tape = Tape::new(&cpu, &mut set);
            let x = tape.input("x", [9, 8, 8, 20], &x);
            let (weight, bias) = (tape.param(0), tape.param(1));
            let y = tape.conv(x, weight, bias, Window::centred(3, 1));
            let value = tape.value(y);
            tape.seed(y, &seed);
            tape.backward();
            let grad = tape.grad(x).unwrap();
            drop(tape);
            (value, grad, cpu.download(&set.params[0].grad), cpu.download(&set.params[1].grad))
        })
    };
    assert!(run(1) == run(2) && run(1) == run(5));
}

//! Which products apply a gate, and who hands out logits.

use inferlib_program::program::{Activation, Buffer, BufferId, Op, Program, Rows, WeightId};

use super::*;
use crate::activations::Need;

const HIDDEN: BufferId = BufferId(0);
const BOTH: BufferId = BufferId(1);
const INNER: BufferId = BufferId(2);

fn linear(x: BufferId, weight: u32, out: BufferId) -> Op {
    Op::Linear {
        x,
        weight: WeightId(weight),
        bias: None,
        out,
    }
}

/// Two layers over the same buffers, as a model has them.
fn layers(extra: Option<Op>) -> Program {
    let gate = || Op::ActAndMul {
        x: BOTH,
        activation: Activation::Silu,
        out: INNER,
    };
    let layer = |extra: Option<Op>| {
        let mut ops = vec![linear(HIDDEN, 0, BOTH), gate()];
        ops.extend(extra);
        ops.push(linear(INNER, 1, HIDDEN));
        ops
    };
    let width = |width| Buffer {
        name: String::new(),
        rows: Rows::Tokens,
        width,
    };
    Program {
        buffers: [16, 64, 32].map(width).to_vec(),
        ops: [layer(extra), layer(None)].concat(),
        ..Program::default()
    }
}

fn gated(program: &Program) -> Vec<bool> {
    let steps = build(program, false, |_| Need::default(), |_| true);
    let linear = |step: &Step| match step {
        Step::Linear { gated, .. } => Some(gated.is_some()),
        _ => None,
    };
    steps.iter().filter_map(linear).collect()
}

#[test]
fn every_layers_gate_is_applied_by_its_product() {
    assert_eq!(gated(&layers(None)), [true, false, true, false]);
}

#[test]
fn a_product_that_is_read_again_is_kept() {
    let add = Op::Add {
        a: BOTH,
        b: BOTH,
        out: BOTH,
    };
    assert_eq!(gated(&layers(Some(add))), [false, false, true, false]);
}

#[test]
fn logits_are_handed_out_by_their_own_step() {
    let capture = |name: &str, x| Op::Capture {
        name: name.to_owned(),
        x,
    };
    let mut program = layers(None);
    program.ops.extend([
        capture("stream", HIDDEN),
        Op::LmHead {
            x: HIDDEN,
            weight: WeightId(2),
            softcap: None,
            out: BOTH,
        },
        capture("logits", BOTH),
    ]);
    let steps = build(&program, false, |_| Need::default(), |_| true);
    let last = steps.last();
    assert!(matches!(last, Some(Step::Logits { point: Some(1), .. })));
}

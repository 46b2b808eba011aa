//! Warp operations: what each lane gets once all lanes of the mask are there.

use super::thread::{State, Thread, WarpWait};
use crate::inst::WarpKind;

/// Completes the warp operation that `lane` waits for, if every live lane of
/// its mask waits for the same. `lanes` are the threads of one warp. Gives the
/// number of lanes released.
pub(super) fn try_complete(lanes: &mut [Thread], lane: usize) -> u32 {
    let Some(State::Warp(w)) = lanes.get(lane).map(|t| t.state) else {
        return 0;
    };
    let mut group = [None::<WarpWait>; 32];
    for (i, t) in lanes.iter().enumerate().take(32) {
        if w.mask >> i & 1 == 0 {
            continue;
        }
        match t.state {
            State::Done => {}
            State::Warp(o) if o.kind == w.kind && o.mask == w.mask => group[i] = Some(o),
            _ => return 0,
        }
    }
    let present = members(&group);
    for (i, t) in lanes.iter_mut().enumerate().take(32) {
        let Some(own) = group[i] else { continue };
        let (d, p) = result(&own, i as u32, &group, present);
        t.set(own.d, d);
        t.set(own.p, p);
        t.state = State::Ready;
    }
    present.count_ones()
}

fn members(group: &[Option<WarpWait>; 32]) -> u32 {
    group.iter().enumerate().fold(0, |m, (i, g)| m | u32::from(g.is_some()) << i)
}

/// The value and the predicate that lane `i` gets.
fn result(own: &WarpWait, i: u32, group: &[Option<WarpWait>; 32], present: u32) -> (u64, u64) {
    let votes = || {
        group.iter().enumerate().fold(0u32, |m, (i, g)| m | u32::from(g.is_some_and(|g| g.a & 1 == 1)) << i)
    };
    let same = |bits: u32| {
        let cut = |v: u64| if bits == 32 { v & 0xffff_ffff } else { v };
        group
            .iter()
            .enumerate()
            .fold(0u32, |m, (i, g)| m | u32::from(g.is_some_and(|g| cut(g.a) == cut(own.a))) << i)
    };
    let fold =
        |f: fn(u32, u32) -> u32| group.iter().flatten().map(|g| g.a as u32).reduce(f).unwrap_or(0).into();
    match own.kind {
        WarpKind::ShflIdx | WarpKind::ShflUp | WarpKind::ShflDown | WarpKind::ShflBfly => {
            shuffle(own, i, group)
        }
        WarpKind::VoteAll => (u64::from(votes() == present), 0),
        WarpKind::VoteAny => (u64::from(votes() != 0), 0),
        WarpKind::VoteUni => {
            let v = votes();
            (u64::from(v == 0 || v == present), 0)
        }
        WarpKind::VoteBallot => (votes().into(), 0),
        WarpKind::MatchAny(bits) => (same(bits).into(), 0),
        WarpKind::MatchAll(bits) => {
            let all = same(bits) == present;
            (if all { present.into() } else { 0 }, all.into())
        }
        WarpKind::ReduxAdd => (fold(u32::wrapping_add), 0),
        WarpKind::ReduxMin => (fold(|a, b| (a as i32).min(b as i32) as u32), 0),
        WarpKind::ReduxMax => (fold(|a, b| (a as i32).max(b as i32) as u32), 0),
        WarpKind::ReduxUmin => (fold(u32::min), 0),
        WarpKind::ReduxUmax => (fold(u32::max), 0),
        WarpKind::ReduxAnd => (fold(|a, b| a & b), 0),
        WarpKind::ReduxOr => (fold(|a, b| a | b), 0),
        WarpKind::ReduxXor => (fold(|a, b| a ^ b), 0),
        WarpKind::Sync => (0, 0),
        WarpKind::ElectSync => {
            let leader = present.trailing_zeros();
            (leader.into(), u64::from(leader == i))
        }
    }
}

/// `c` holds the clamp in its low bits and the segment mask above.
fn shuffle(own: &WarpWait, i: u32, group: &[Option<WarpWait>; 32]) -> (u64, u64) {
    let b = own.b & 31;
    let clamp = own.c & 31;
    let segment = own.c >> 8 & 31;
    let max_lane = (i & segment) | (clamp & !segment);
    let min_lane = i & segment;
    let (source, inside) = match own.kind {
        WarpKind::ShflUp => {
            let j = i64::from(i) - i64::from(b);
            // The clamp is the lowest lane here.
            (j, j >= i64::from(max_lane))
        }
        WarpKind::ShflDown => {
            let j = i64::from(i) + i64::from(b);
            (j, j <= i64::from(max_lane))
        }
        WarpKind::ShflBfly => {
            let j = i64::from(i ^ b);
            (j, j <= i64::from(max_lane))
        }
        _ => {
            let j = i64::from(min_lane | (b & !segment));
            (j, j <= i64::from(max_lane))
        }
    };
    let j = if inside { source } else { i.into() };
    let value = usize::try_from(j).ok().and_then(|j| group.get(j).copied().flatten()).map_or(own.a, |g| g.a);
    (value & 0xffff_ffff, inside.into())
}

# Source this in every terminal that should see the suite: `source setup.bash` (after `make prepare`).
# It needs nothing but this checkout, and sources nothing twice.
_attn_root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ ! -f "$_attn_root/install/setup.bash" ]; then
  echo "setup.bash: nothing is built yet; run: make prepare" >&2
  unset _attn_root
  return 1
fi
if [ "${VIRTUAL_ENV:-}" != "$_attn_root/.venv" ]; then
  export VIRTUAL_ENV="$_attn_root/.venv"
  export PATH="$VIRTUAL_ENV/bin:$PATH"
  _attn_has_ros=
  while IFS= read -r -d : _attn_prefix; do # any of them may be ROS: overlays come before it
    if [ -f "$_attn_prefix/share/launch_ros/package.xml" ]; then _attn_has_ros=yes; fi
  done <<< "${AMENT_PREFIX_PATH:-}:"
  if [ -z "$_attn_has_ros" ]; then # no ROS of its own: the wheels are one
    export AMENT_PREFIX_PATH="$VIRTUAL_ENV" CMAKE_PREFIX_PATH="$VIRTUAL_ENV" ROS_DISTRO=jazzy ROS_VERSION=2
  fi
  unset _attn_prefix _attn_has_ros
  # shellcheck disable=SC1091
  source "$_attn_root/install/local_setup.bash"
fi
# Stay on this machine, in a domain of this checkout's own, unless told otherwise.
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
export ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-$((1 + $(printf %s "$_attn_root" | cksum | cut -d' ' -f1) % 100))}"
unset _attn_root

# The plan as NixOS places it: the modules take all that they take from a plan out of `placement`. Builtins only, so
# that every line here is tested without nixpkgs; nothing is decided here that the planner has not decided. A plan that
# this file cannot trust is an error before anything is evaluated.
let
  inherit (builtins)
    attrNames compareVersions concatLists concatStringsSep elem elemAt filter foldl' fromJSON groupBy hashString head
    isString listToAttrs map mapAttrs match pathExists readFile replaceStrings split splitVersion stringLength substring
    toJSON;

  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  withoutPrefix = prefix: text: substring (stringLength prefix) (stringLength text) text;
  lines = text: filter (line: isString line && line != "") (split "\n" text);
  refuse = problem: throw "services.inferhost.planFile: ${problem}";
  # JSON has one kind of number less than Nix options have: only what is plainly an integer becomes one.
  number = text: if match "0|-?[1-9][0-9]{0,17}" text == null then text else fromJSON text;
in
rec {
  readableSchemas = [ 1 2 ];
  sections = [ "driver" "gpu" "cpu" "runtime" "models" "service" ];
  packagedUnits = ../../inferhost/host/units;
  unitDirectory = "/etc/systemd/system/";
  limitsDirectory = "/etc/security/limits.d/";

  # The plan of a file, or an error with every problem found.
  read =
    file:
    let
      text = readFile file;
      plan = fromJSON text;
      found = problems plan text;
    in
    if found == [ ] then
      plan
    else
      throw (concatStringsSep "\n" (map (p: "services.inferhost.planFile: ${p}") found));

  # What is wrong with a plan, as lines. A schema that is not known says nothing about the rest.
  problems =
    plan: text:
    let
      schema = plan.schema or null;
      unknown = filter (section: !elem section sections) plan.manage;
      outside = filter (file: !hasPrefix "/etc/" file.path) plan.files;
    in
    if !elem schema readableSchemas then
      [ "schema: found ${toJSON schema}, this module reads ${toJSON readableSchemas}; take both from one checkout" ]
    else
      (
        if plan.plan_id == identity plan text then
          [ ]
        else
          [ "plan_id: found ${plan.plan_id}, the content gives ${identity plan text}; change the wish and plan again" ]
      )
      ++ map (section: "manage: found ${toJSON section}, this module places ${toJSON sections}") unknown
      ++ map (file: "files: found ${toJSON file.path}, NixOS places files below /etc only") outside;

  # The hash over everything but itself, from the file's own text: Nix writes floats in another way than Python. No
  # JSON text has a line break inside a string, so leaving them out with the indentation gives the text on one line.
  identity =
    plan: text:
    let
      line = concatStringsSep "" (filter isString (split "\n *" text));
      blank = replaceStrings [ ''"plan_id": "${plan.plan_id}"'' ] [ ''"plan_id": ""'' ] line;
    in
    substring 0 16 (hashString "sha256" blank);

  # All that NixOS takes from a plan. What only the host program reads, it reads from the installed plan.
  placement = plan: {
    host = plan.host.name;
    wishSha256 = plan.wish_sha256;
    units = under unitDirectory (filter isUnit (files plan));
    etc = under "/etc/" (filter (file: !isUnit file) (files plan));
    sysctl = mapAttrs (_: number) plan.sysctl;
    loginLimits = loginLimits plan;
    # The sections that hold what has no file, as the roles hand them to `inferhost apply`.
    applied = filter (section: elem section plan.manage) [ "gpu" "cpu" ];
    inherit (plan.cpu) governor;
    engines = map engine plan.service;
    users = attrNames (groupBy (service: service.user) plan.service);
    driver = driver plan;
    # Docker or podman is for the configuration to name; the cards in its containers follow from the plan.
    containers = elem "runtime" plan.manage;
  };

  isUnit = file: hasPrefix unitDirectory file.path;

  # Files by their path below a directory. NixOS owns the unit directory and links packages into it.
  under =
    directory: found:
    listToAttrs (
      map (file: {
        name = withoutPrefix directory file.path;
        value = { inherit (file) mode text; };
      }) found
    );

  # Every file and drop-in: absolute path, mode and text, byte for byte what the roles place elsewhere.
  files =
    plan:
    map (file: {
      inherit (file) path mode;
      text = if file.content != null then file.content else packaged file.package_file;
    }) plan.files
    ++ map (dropin: {
      path = "${unitDirectory}${dropin.unit}.d/10-inferhost.conf";
      mode = "0644";
      text = dropinText dropin.entries;
    }) plan.dropins;

  packaged =
    name:
    if name != null && pathExists (packagedUnits + "/${name}") then
      readFile (packagedUnits + "/${name}")
    else
      refuse "files: found ${toJSON name}, which this checkout does not ship";

  # A drop-in as systemd reads it. The entries are ordered, and a key that is reset comes first with no value.
  dropinText =
    entries:
    let
      notice = "# Placed by inferhost; put your own settings into 50-local.conf beside this file.";
      step =
        state: entry:
        let
          section = elemAt entry 0;
          heading = if section == state.section then [ ] else [ "" "[${section}]" ];
        in
        {
          inherit section;
          lines = state.lines ++ heading ++ [ "${elemAt entry 1}=${elemAt entry 2}" ];
        };
      start = {
        section = null;
        lines = [ notice ];
      };
    in
    concatStringsSep "\n" ((foldl' step start entries).lines ++ [ "" ]);

  # Limits of login sessions as `security.pam.loginLimits`: NixOS hands pam_limits a file of its own, and then
  # pam_limits does not read limits.d.
  loginLimits =
    plan:
    let
      limit =
        line:
        let
          words = match "([^ ]+) +([^ ]+) +([^ ]+) +([^ ]+)" line;
        in
        if words == null then
          refuse "files: found ${toJSON line}, wanted four words of limits.conf"
        else
          {
            domain = elemAt words 0;
            type = elemAt words 1;
            item = elemAt words 2;
            value = number (elemAt words 3);
          };
      rules = file: filter (line: !hasPrefix "#" line) (lines file.text);
    in
    concatLists (
      map (file: map limit (rules file)) (filter (file: hasPrefix limitsDirectory file.path) (files plan))
    );

  # What NixOS knows of an engine: its unit, what it starts, and whether its port is for others than this host.
  engine = service: {
    inherit (service) instance unit port;
    executable = head service.argv;
    public = match "127\\..*|::1|localhost" service.host == null;
  };

  # What hardware.nvidia has to be for the cards of this plan. `open` is null where either module runs them.
  driver = plan: {
    wanted = plan.gpus != [ ] && !plan.host.simulated && plan.manage != [ ];
    open =
      {
        open = true;
        proprietary = false;
        either = null;
      }
      .${plan.driver.kernel_module}
        or (refuse "driver.kernel_module: found ${plan.driver.kernel_module}, wanted open, proprietary or either");
    firstVersion = plan.driver.first_version;
    lastBranch = plan.driver.last_branch;
    persistence = elem true (map (gpu: gpu.persistence_mode) plan.gpus);
  };

  # Why a driver version cannot run the cards, or null.
  driverProblem =
    { firstVersion, lastBranch, ... }:
    version:
    if firstVersion != null && compareVersions version firstVersion < 0 then
      "found ${version}, the plan's cards need ${firstVersion} or later"
    else if lastBranch != null && compareVersions (head (splitVersion version)) lastBranch > 0 then
      "found ${version}, branch ${lastBranch} is the last that knows the plan's cards"
    else
      null;

  wishOptions = (fromJSON (readFile ../../inferhost/schema/wish.json)).options;

  # The hash of a wish with its defaults, as the planner writes it into `wish_sha256`.
  wishSha256 =
    wish:
    let
      value = name: option: if wish.${name} or null == null then option.default or null else wish.${name};
    in
    hashString "sha256" (toJSON (mapAttrs value wishOptions));
}

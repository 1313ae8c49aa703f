// loads the explorer when it comes near
"use strict";
